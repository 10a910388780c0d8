# SPDX-License-Identifier: Apache-2.0
"""Segment Anything (Kirillov et al., ICCV 2023) asked at a grid of points, its three answers kept apart as levels.

For each point SAM's decoder draws three masks, of a subpart, a part and a whole. Its own generator throws them into one
list; LangSplat (Qin et al. 2024) therefore brings a changed copy of it. Here the stock package is asked point by point,
and what one of the three answered stays on its level. Settings are those of LangSplat's program.
"""

from dataclasses import dataclass
from typing import Any, Iterator, List, Tuple

import numpy as np
import torch
from torch import Tensor

from nts_plugins.encoders import weight_files, weights
from nts_plugins.encoders.base import LEVELS, LevelMasks
from nts_plugins.encoders.settings import SamSettings

PUBLISHED = {
    "vit_h": "sam_vit_h_4b8939.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_b": "sam_vit_b_01ec64.pth",
}
"""Model to the file of its published weights."""
SOURCE = "https://dl.fbaipublicfiles.com/segment_anything"
"""Where they are."""


@dataclass
class _Found:
    """Masks of one level. Their bits are packed: thousands of whole masks would fill the memory."""

    bits: np.ndarray
    boxes: Tensor
    """[n, 4] left, top, right, bottom."""
    scores: Tensor
    believed: Tensor
    """Intersection over union with the true region, as SAM itself thinks."""
    crop_areas: Tensor

    @staticmethod
    def of(masks: Tensor, boxes: Tensor, scores: Tensor, believed: Tensor, crop: List[int]) -> "_Found":
        bits = np.packbits(masks.flatten(1).cpu().numpy(), axis=1)
        area = torch.full((len(masks),), float((crop[2] - crop[0]) * (crop[3] - crop[1])))
        return _Found(bits, boxes.float().cpu(), scores.float().cpu(), believed.float().cpu(), area)

    @staticmethod
    def joined(pieces: List["_Found"]) -> "_Found":
        rest = ("boxes", "scores", "believed", "crop_areas")
        together = {name: torch.cat([getattr(each, name) for each in pieces]) for name in rest}
        return _Found(np.concatenate([each.bits for each in pieces]), **together)

    def kept(self, which: Tensor) -> "_Found":
        rest = self.boxes[which], self.scores[which], self.believed[which], self.crop_areas[which]
        return _Found(self.bits[which.numpy()], *rest)


def check(settings: SamSettings) -> None:
    """See to it that what settings name is there, before anything is loaded.

    Raises:
        InputError: where there is no such model or no such file, or a number is out of its range.
    """
    settings.check()
    if settings.weights is not None:
        weights.given(settings.weights, f"SAM {settings.model}")


class Sam:
    """Regions of pictures on three levels.

    Args:
        model: a ``segment_anything.modeling.Sam``.
        settings: where and how it is asked.
    """

    def __init__(self, model: Any, settings: SamSettings) -> None:
        from segment_anything import SamPredictor

        self.settings, self.name = settings, settings.name
        self.predictor = SamPredictor(model.eval())

    @classmethod
    def load(cls, settings: SamSettings, device: torch.device, option: str = "--sam.weights") -> "Sam":
        """The model on a device.

        Raises:
            InputError: where there is no such model, or its weights are not to be had.
        """
        from segment_anything import sam_model_registry

        check(settings)
        name, what = settings.model, f"SAM {settings.model}"
        file = settings.weights or weights.fetched(f"{SOURCE}/{PUBLISHED[name]}", what, option)
        model = sam_model_registry[name]()
        weight_files.fill(model, weight_files.read(file, what), file, what)
        return cls(model.to(device), settings)

    @torch.no_grad()
    def masks(self, picture: Tensor) -> List[LevelMasks]:
        """[H, W, 3] colours in [0, 1] to masks of each of :data:`LEVELS`, on the CPU; there may be none."""
        from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes

        settings = self.settings
        image = (picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        size = image.shape[:2]
        grids = build_all_layer_point_grids(settings.points_per_side, settings.crop_layers, 1)
        boxes, layers = generate_crop_boxes(size, settings.crop_layers, 512 / 1500)
        found: List[List[_Found]] = [[] for _ in LEVELS]
        for box, layer in zip(boxes, layers, strict=True):
            for level, some in self._of_crop(image, box, grids[layer]):
                found[level].append(some)
        return [self._of_level(each, size) for each in found]

    def _of_crop(self, image: np.ndarray, box: List[int], grid: np.ndarray) -> Iterator[Tuple[int, _Found]]:
        """What each level has in a crop, copies left out."""
        left, top, right, bottom = box
        self.predictor.set_image(np.ascontiguousarray(image[top:bottom, left:right]))
        points, at_once = grid * [right - left, bottom - top], self.settings.points_at_once
        found: List[List[_Found]] = [[] for _ in LEVELS]
        for some in np.array_split(points, range(at_once, len(points), at_once)):
            logits, believed = self._asked(some, (bottom - top, right - left))
            for level, pieces in enumerate(found):
                pieces.append(self._good(logits[:, level], believed[:, level], box, image.shape[:2]))
        self.predictor.reset_image()
        for level, pieces in enumerate(found):
            all_points = _Found.joined(pieces)
            keep = kept_boxes(all_points.boxes, all_points.believed, self.settings.largest_box_overlap)
            yield level, all_points.kept(keep)

    def _good(self, logits: Tensor, believed: Tensor, box: List[int], size: Tuple[int, int]) -> _Found:
        """Of the answers [n, h, w] to some points those that are believed, stable, and not cut off by the crop."""
        from segment_anything.utils import amg

        stability = amg.calculate_stability_score(logits, self.predictor.model.mask_threshold, 1.0)
        good = (believed > self.settings.least_iou) & (stability >= self.settings.least_stability)
        masks = logits[good] > self.predictor.model.mask_threshold
        corners = amg.batched_mask_to_box(masks)
        within = ~amg.is_box_near_crop_edge(corners, box, [0, 0, size[1], size[0]])
        believed, stability = believed[good][within], stability[good][within]
        masks = amg.uncrop_masks(masks[within], box, *size)
        return _Found.of(masks, amg.uncrop_boxes_xyxy(corners[within], box), believed * stability, believed, box)

    def _asked(self, points: np.ndarray, size: Tuple[int, int]) -> Tuple[Tensor, Tensor]:
        """Logits [n, 3, h, w] and believed IoU [n, 3] at points [n, 2] (x, y) of the crop."""
        device = self.predictor.device
        prompts = torch.as_tensor(self.predictor.transform.apply_coords(points, size), device=device)
        labels = torch.ones(len(prompts), 1, dtype=torch.int, device=device)
        logits, iou, _ = self.predictor.predict_torch(
            prompts[:, None], labels, multimask_output=True, return_logits=True
        )
        return logits, iou

    def _of_level(self, pieces: List[_Found], size: Tuple[int, int]) -> LevelMasks:
        """What is left of all crops' masks: small crops see better, and holes and islands go."""
        from segment_anything.utils import amg

        found, overlap = _Found.joined(pieces), self.settings.largest_box_overlap
        found = found.kept(kept_boxes(found.boxes, 1.0 / found.crop_areas, overlap))
        masks = unpacked(found.bits, size)
        if self.settings.smallest_region <= 0 or len(masks) == 0:
            return LevelMasks(masks, found.scores)
        untouched = torch.zeros(len(masks))
        for number, mask in enumerate(masks):
            filled, holes = amg.remove_small_regions(mask.numpy(), self.settings.smallest_region, mode="holes")
            clean, islands = amg.remove_small_regions(filled, self.settings.smallest_region, mode="islands")
            untouched[number] = float(not holes and not islands)
            masks[number] = torch.as_tensor(clean)
        keep = kept_boxes(amg.batched_mask_to_box(masks).float(), untouched, overlap)
        return LevelMasks(masks[keep], found.scores[keep])


def unpacked(bits: np.ndarray, size: Tuple[int, int]) -> Tensor:
    """[n, H, W] bool from rows of packed bits."""
    flat = np.unpackbits(bits, axis=1, count=size[0] * size[1])
    return torch.from_numpy(flat.view(bool)).reshape(len(bits), *size)


def kept_boxes(boxes: Tensor, scores: Tensor, largest: float) -> Tensor:
    """Greedy suppression: best first, a box goes where it overlaps a kept one by more than a share of their union.

    torchvision has it, compiled; that part of it does not load beside every build of torch.

    Args:
        boxes: [n, 4] left, top, right, bottom.
        scores: [n].
        largest: intersection over union that may be kept.

    Returns:
        [k] indices, best first.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for number in range(len(boxes)):
        if not alive[number]:
            continue
        rest = boxes[number + 1 :]
        common = (
            torch.minimum(boxes[number, 2:], rest[:, 2:]) - torch.maximum(boxes[number, :2], rest[:, :2])
        ).clamp_min(0)
        shared = common.prod(dim=1)
        alive[number + 1 :] &= ~(shared > largest * (areas[number] + areas[number + 1 :] - shared))
    return order[alive]
