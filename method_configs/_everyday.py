# SPDX-License-Identifier: Apache-2.0
"""Everyday settings of splats, their textures, motion and surfaces, which several methods build on.

What is not written here is that of Kerbl, Kopanas, Leimkuehler, Drettakis, SIGGRAPH 2023 (see ``splat_paper`` for all
of it, frozen). What is written here differs from it, with the reason.
"""

from dataclasses import fields, replace
from typing import Any, Dict, Optional, TypeVar

from nerfstudio.configs.base_config import ViewerConfig

from nts_plugins.appearance.neural_texture import NeuralTextureConfig
from nts_plugins.data.datamanager import SplatDatamanagerConfig
from nts_plugins.fields.texture import TextureFieldConfig
from nts_plugins.gaussians.strategies import DefaultConfig
from nts_plugins.heads.surface import SurfaceHeadConfig
from nts_plugins.models.splat import SplatModelConfig
from nts_plugins.training.optimizers import AdamConfig, ExponentialDecayConfig
from nts_plugins.training.pipeline import SplatPipelineConfig
from nts_plugins.training.trainer import SplatTrainerConfig

Model = TypeVar("Model", bound=SplatModelConfig)


def splat_optimizers() -> Dict[str, Any]:
    """Learning rates of the paper's program. That of the means is multiplied by the extent of the cameras."""
    return {
        "means": {
            "optimizer": AdamConfig(lr=1.6e-4),
            "scheduler": ExponentialDecayConfig(lr_final=1.6e-6, max_steps=30000),
        },
        "features_dc": {"optimizer": AdamConfig(lr=2.5e-3), "scheduler": None},
        "features_rest": {"optimizer": AdamConfig(lr=2.5e-3 / 20), "scheduler": None},
        "opacities": {"optimizer": AdamConfig(lr=5e-2), "scheduler": None},
        "scales": {"optimizer": AdamConfig(lr=5e-3), "scheduler": None},
        "quats": {"optimizer": AdamConfig(lr=1e-3), "scheduler": None},
        # At a constant rate the factors wander by a hundredth: the gallery, exposed evenly, lost 0.4 dB in 7000 steps.
        "exposure": {
            "optimizer": AdamConfig(lr=3e-3),
            "scheduler": ExponentialDecayConfig(lr_final=3e-5, max_steps=3000),
        },
        # The paper takes poses as they are. These count only with --pipeline.model.camera-optimizer.mode.
        "camera_opt": {
            "optimizer": AdamConfig(lr=1e-4),
            "scheduler": ExponentialDecayConfig(lr_final=5e-7, max_steps=30000, warmup_steps=1000),
        },
    }


def splat_model() -> SplatModelConfig:
    """The everyday model: good after 1000 steps, which is what a laptop gives in a minute, and no worse later."""
    return SplatModelConfig(
        densify=DefaultConfig(
            # The paper waits for 500 steps. Seed points are sparse, and what they do not cover is blurred until then.
            # After 1000 steps at half size, the two lines here and the next one gave 22.7 dB instead of 22.4 on fox and
            # 26.3 instead of 25.5 on llff_fern, and cost 0.3 dB on lund_street, whose views hardly overlap.
            refine_start_iter=200,
            # With the earlier start, the paper's 0.0002 grows half as many splats again for no better pictures.
            grow_grad2d=0.0003,
            # The paper removes splats larger than a tenth of the cameras' extent, once opacities have been reset. Where
            # cameras stand close together before a deep scene, that is the background: llff_fern fell from 28.0 dB
            # after 3000 steps to 22.3 after 4000, and reaches 28.2 with this, which is splatfacto's number.
            prune_scale3d=0.5,
            # The paper has no limit. The 17 small photographs of llff_fern grew to 308 000 splats in 7000 steps, which
            # hold four times as many numbers as the photographs. A limit of 80 000 lost nothing.
            max_splats="auto",
            # Where photographs overlap little, splats hang before single cameras. Akaike's 1 cures most of it, see
            # docs/benchmarks.md. 2 gave, in the mean over six seeds, 16.5 dB / .523 instead of 16.1 / .517 on
            # lund_street at a quarter of its size after 1000 steps, and on fox and llff_fern what 1 gives.
            opacity_cost=2.0,
        ),
        # Phones expose anew for every picture. After 1000 steps the factors gave 16.3 dB instead of 15.1 on lund_street
        # at a quarter of its size, 23.9 instead of 23.7 on fox, and the same on llff_fern, whose exposure is fixed.
        exposure=True,
        # The paper trains each degree for 1000 steps first. Runs of 1000 steps would never see a highlight.
        sh_degree_interval=300,
        # Points on surfaces lie N^-1/2 apart. This gave 16.2 dB instead of 15.9 on lund_street (1785 points) after 1000
        # steps at a quarter of its size, and 27.9 instead of 27.8 on llff_fern (3089) after 2000 at half size.
        sparse_seeds=4500,
        # Densification adds what is missing, so a start without seed points needs less than the paper's 100 000.
        num_random=20000,
    )


def settings_of(model: SplatModelConfig) -> Dict[str, Any]:
    """A model's settings, for one that has further ones."""
    return {each.name: getattr(model, each.name) for each in fields(model) if each.name != "_target"}


def texture(**field: Any) -> NeuralTextureConfig:
    """The everyday textures, with further settings of their field. What is written here differs from Wang et al. 2025,
    with the reason; docs/benchmarks.md has the numbers."""
    return NeuralTextureConfig(
        field=TextureFieldConfig(
            # Bounded vectors instead of tanh of every texel: a plane is then read by interpolating two vectors, which
            # takes a third of the time.
            texel_activation="vectors",
            # Textures that begin at 0 leave a scene as it is when they come.
            starts_at_zero=True,
            # The paper has 8 for single objects and 4 for captures, and layers 128 wide. Layers of 32 lose nothing.
            texels=6,
            hidden=32,
            **field,
        ),
        # The paper waits for 5000 of 30 000 steps. Runs of 1000 steps would never have a texture.
        start_step=500,
        # A splat whose opacity wanders around the limit would flicker.
        fades_in=True,
        # Half of the splats in front of a camera are hidden behind others. 0.01 saves a third of an iteration on the
        # chair and loses 0.1 dB, 0.1 saves half of it and loses 0.3.
        least_coverage=0.003,
        # The paper adds three planes. With that of the face alone a third is decoded, read and stored. With 6 texels
        # instead of 4 the chair gains 0.86 dB instead of 0.89, with an eighth fewer splats.
        plane_weights="face",
        # The paper has 0.2. On the chair, an object before black, most of what textures gain is in opacity.
        opacity_amplitude=0.5,
        # Opacity costs something here. Textures in which it cost nothing took its place: fox, a photographed room, lost
        # 1.4 dB to splats that had turned into opaque discs. At the same price it loses nothing, and the chair gains
        # what it gained. A larger penalty instead leaves the chair 0.35 dB.
        charges_opacity=True,
        # The paper takes the point where a ray meets a splat as given. Its gradient gave 0.1 dB more.
        moves_splats=True,
        # What textures show between cameras, no photograph says. With 8 photographs of the chair instead of 100 the
        # paper's textures lose 0.8 dB. Directions blurred by the distance of cameras, and penalties that weigh more
        # where there are fewer photographs, lose nothing there, and little with 100.
        camera_noise=1.0,
        penalty_views=100,
        opacity_penalty=0.02,
        color_penalty=0.02,
    )


def texture_optimizers() -> Dict[str, Any]:
    """The field's learning rate, as in the paper's program; and those of features and network of a pixel decoder."""
    return {
        "texture_field": {"optimizer": AdamConfig(lr=1e-3), "scheduler": None},
        "pixels_features": {"optimizer": AdamConfig(lr=1e-2), "scheduler": None},
        "pixels": {"optimizer": AdamConfig(lr=2e-3), "scheduler": None},
    }


def motion_optimizers() -> Dict[str, Any]:
    """The learning rate of a moving scene's planes and decoder; what else there is of motion is as MotionConfig has it.

    Wu et al. 2024 begin with 1.6e-3 for planes, and end with a hundredth of it. With twice that at first and coarse
    planes (``DeformationFieldConfig``) a dancer's limbs are found, which 1e-3 and fine planes left as a haze: 32.6 dB
    after 3000 steps instead of 31.1, in the mean of three seeds. The gallery, whose things are rigid, lost 0.07 dB
    where four cameras film it and 0.3 dB where one does.
    """
    return {
        "motion": {
            "optimizer": AdamConfig(lr=3e-3),
            "scheduler": ExponentialDecayConfig(lr_final=1e-5, max_steps=30000),
        },
    }


def language_optimizers() -> Dict[str, Any]:
    """Rates of LangSplat's and LangSplatV2's programs, of splats' codes and of the words that all share."""
    return {
        "language": {"optimizer": AdamConfig(lr=2.5e-3), "scheduler": None},
        "language_shared": {"optimizer": AdamConfig(lr=2.5e-3), "scheduler": None},
    }


def latent_optimizers() -> Dict[str, Any]:
    """The rate at which a decoder learns what one scene's latents look like, of which the paper says nothing."""
    return {"latent_decoder": {"optimizer": AdamConfig(lr=1e-4), "scheduler": None}}


def on_surfaces(model: Model) -> Model:
    """The model with what makes splats lie on surfaces, with the weights of the head."""
    head = SurfaceHeadConfig(
        # The paper waits for 15 000 of 30 000 steps. Runs of 2000 steps would never have a surface.
        start_step=1000,
    )
    # Backgrounds stay as they are. Random ones close holes where black things lie before black, and cost more than
    # that: on the gallery, 48 views of 240x180, Chamfer after 2000 steps was 7.3 cm instead of 5.3.
    return replace(model, heads={"surface": head})


def splat_trainer(
    method_name: str,
    model: SplatModelConfig,
    optimizers: Dict[str, Any],
    data: Optional[SplatDatamanagerConfig] = None,
) -> SplatTrainerConfig:
    """How long, and what is saved, evaluated and shown on the way."""
    return SplatTrainerConfig(
        method_name=method_name,
        max_num_iterations=30000,
        steps_per_save=1000,
        steps_per_eval_batch=0,
        steps_per_eval_image=500,
        steps_per_eval_all_images=5000,
        mixed_precision=False,
        pipeline=SplatPipelineConfig(datamanager=data or SplatDatamanagerConfig(), model=model),
        optimizers=optimizers,
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    )
