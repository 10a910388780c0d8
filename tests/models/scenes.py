# SPDX-License-Identifier: Apache-2.0
"""A model on its own, without datamanager and trainer: what a step needs, made by hand."""

import math
from types import SimpleNamespace
from typing import Any, Dict, Optional

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from nts_plugins.models.splat import SplatModel, SplatModelConfig
from nts_plugins.training.optimizers import AdamConfig
from tests.captures import FOCAL, blobs, moved, photograph, ring_pose

WIDTH, HEIGHT = 48, 36


def make_model(config: Optional[SplatModelConfig] = None, *, seeds: int = 50, **metadata: Any) -> SplatModel:
    """A model that starts at points of the blobs."""
    generator = torch.Generator().manual_seed(3)
    scene = blobs()
    which = torch.randint(len(scene), (seeds,), generator=generator)
    points = scene.means[which] + 0.05 * torch.randn(seeds, 3, generator=generator)
    colors = (scene.colors[which] * 255).to(torch.uint8)  # type: ignore[index]
    torch.manual_seed(0)
    return (config or SplatModelConfig(num_downscales=0)).setup(
        scene_box=SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3])),
        num_train_data=4,
        metadata=metadata,
        device="cpu",
        grad_scaler=None,
        seed_points=(points, colors),
    )


def camera(
    angle: float = 0.3, index: int = 0, kind: CameraType = CameraType.PERSPECTIVE, time: Optional[float] = None
) -> Cameras:
    made = Cameras(
        camera_to_worlds=ring_pose(angle)[None, :3],
        fx=FOCAL * WIDTH,
        fy=FOCAL * WIDTH,
        cx=WIDTH / 2,
        cy=HEIGHT / 2,
        width=WIDTH,
        height=HEIGHT,
        camera_type=kind,
        times=None if time is None else torch.tensor([[time]]),
    )
    made.metadata = {"cam_idx": index}
    return made


def picture(angle: float = 0.3, time: float = 0.0) -> Dict[str, Any]:
    """A batch with the photograph from that angle, of the blobs at a time."""
    image = torch.from_numpy(photograph(moved(blobs(), time), ring_pose(angle), (WIDTH, HEIGHT)))
    return {"image": image, "image_idx": 0}


class Steps:
    """A training loop of the bare model; each of four cameras has its own moment where the scene moves."""

    def __init__(self, model: SplatModel, lr: float = 5e-3, moving: bool = False) -> None:
        self.model, self.moving = model, moving
        groups = model.get_param_groups()
        self.optimizers = {name: AdamConfig(lr=lr).setup(each) for name, each in groups.items()}
        self.step = 0

    def picture(self, angle: float, time: float) -> Dict[str, Any]:
        return picture(angle, time)

    def run(self, count: int, **batch: Any) -> Tensor:
        """Train; returns the total loss of each step."""
        losses = []
        for _ in range(count):
            self.model.train()
            self.model.step_cb(SimpleNamespace(optimizers=self.optimizers), self.step)  # type: ignore[arg-type]
            angle = 2 * math.pi * (self.step % 4) / 4
            time = self.step % 4 / 3 if self.moving else None
            data = {**self.picture(angle, time or 0.0), **batch}
            outputs = self.model(camera(angle, index=self.step % 4, time=time))
            self.model.get_metrics_dict(outputs, data)
            loss = sum(self.model.get_loss_dict(outputs, data).values())
            for optimizer in self.optimizers.values():
                optimizer.zero_grad()
            loss.backward()  # type: ignore[union-attr]
            for optimizer in self.optimizers.values():
                optimizer.step()
            self.model.step_post_backward(self.step)
            losses.append(float(loss.detach()))
            self.step += 1
        return torch.tensor(losses)
