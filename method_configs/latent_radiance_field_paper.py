# SPDX-License-Identifier: Apache-2.0
"""latent-radiance-field-paper: Latent Radiance Fields (Zhou, Liu, Luo, Huang, ICLR 2025, arXiv 2502.09613), stage II as
its program has it, on the splats of ``splat-paper``.

Frozen: every number is written out, and a test fails when one changes. What is reported (PSNR / SSIM / LPIPS): LLFF
20.00 / .541 / .289, DL3DV-10K 22.45 / .667 / .197; a later paper (Splatent, arXiv 2512.09923) measured 17.98 / .542 /
.379 and 20.19 / .619 / .322 with the same program.

Stages I and III are commands over many scenes: give the weights of ``nts tune-codec`` and then ``nts align-codec`` as
``--pipeline.datamanager.codec.weights``. With fewer steps than ``alignment_start`` the decoder stays as it came.

What differs:

- Pictures are not cropped to multiples of 8 pixels but continued to them; the principal point stays where it is.
- Behind the splats is the latent of a picture of the data's colour, or of black. The program gives three zeros for four
  channels.
- Held-out latents above the range of the training pictures are not clipped; as in the program, nothing below is drawn.
- A splat begins with the latent that its colour usually has. The program takes colours for the first three channels.
"""

from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.data.latent_data import CodecSettings, LatentDatamanagerConfig
from nts_plugins.method_configs._paper import paper_model, paper_optimizers, paper_trainer
from nts_plugins.models.latent import LatentModelConfig
from nts_plugins.training.optimizers import AdamConfig

latent_radiance_field_paper = MethodSpecification(
    config=paper_trainer(
        "latent-radiance-field-paper",
        paper_model(
            LatentModelConfig,
            num_downscales=0,  # latents are small already
            normalisation="min-max",  # program
            alignment_start=30000,  # none within a scene: stage III is over many
            novel_every=0,  # likewise
            alignment_crop=32,  # only for those who train longer: 256 pixels, program
        ),
        {
            **paper_optimizers(),
            "latent_decoder": {"optimizer": AdamConfig(lr=4.5e-6, eps=1e-8), "scheduler": None},  # program: its codec's
        },
        LatentDatamanagerConfig(codec=CodecSettings(name="sd-kl-f8")),
    ),
    description="Latent Radiance Fields with the paper's numbers, frozen: splats of Stable Diffusion's latents.",
)
