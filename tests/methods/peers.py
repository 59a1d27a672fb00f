"""What two other implementations of WinCLIP document that they compute, written down slowly: files in, scores and maps
out, one window at a time through open_clip's own modules, loops in double precision for the rest.

Of the package nothing is used, so that agreement means something.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from tests.clip.literal import embed_tokens, windows

SCALES = (2, 3)
TEMPERATURE = 0.07
STATES = (
    ("{}", "flawless {}", "perfect {}", "unblemished {}", "{} without flaw", "{} without defect", "{} without damage"),
    ("damaged {}", "{} with flaw", "{} with defect", "{} with damage"),
)
# 21 lines; the one about JPEG stands there twice.
TEMPLATES = (
    "a cropped photo of the {}.", "a close-up photo of a {}.", "a close-up photo of the {}.",
    "a bright photo of a {}.", "a bright photo of the {}.", "a dark photo of the {}.", "a dark photo of a {}.",
    "a jpeg corrupted photo of the {}.", "a jpeg corrupted photo of the {}.", "a blurry photo of the {}.",
    "a blurry photo of a {}.", "a photo of a {}.", "a photo of the {}.", "a photo of a small {}.",
    "a photo of the small {}.", "a photo of a large {}.", "a photo of the large {}.",
    "a photo of the {} for visual inspection.", "a photo of a {} for visual inspection.",
    "a photo of the {} for anomaly detection.", "a photo of a {} for anomaly detection.",
)  # fmt: skip

Vectors = NDArray[np.float64]


@dataclass
class Embedded:
    """Of one image: its embedding [E], those of its windows, side -> [n, E], and its patches' [g², width]."""

    image: Vectors
    windows: dict[int, Vectors]
    patches: Vectors


@dataclass
class Peer:
    """Accurate-WinCLIP, or anomalib where it differs: it resizes tensors instead of PIL images, takes patches after
    ln_post, and adds half of each map instead of the whole."""

    model: Any
    architecture: str
    side: int
    name: Literal["accurate_winclip", "anomalib"]

    def run(
        self, images: Sequence[Path], references: Sequence[Path], class_name: str
    ) -> tuple[list[float], list[NDArray[np.float32]]]:
        """Image scores and maps [side, side] of some files."""
        text = self.text(class_name)
        gallery = [self.embed(path) for path in references]
        scored = [self.score(self.embed(path), gallery, text) for path in images]
        return [score for score, _ in scored], [found for _, found in scored]

    def pixels(self, path: Path) -> torch.Tensor:
        image = Image.open(path).convert("RGB")
        size = (self.side, self.side)
        if self.name == "accurate_winclip":
            channels = torch.from_numpy(np.asarray(image.resize(size, Image.Resampling.BICUBIC)).copy()).permute(
                2, 0, 1
            )
            values = channels / 255
        else:
            channels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
            values = transforms.resize(channels, list(size), transforms.InterpolationMode.BICUBIC, antialias=True)
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
        return (values - mean) / std

    @torch.no_grad()
    def text(self, class_name: str) -> Vectors:
        """The mean embedding of the normal and of the anomalous prompts, made a unit vector only then."""
        tokenizer = open_clip.get_tokenizer(self.architecture)
        means = []
        for states in STATES:
            prompts = [template.format(state.format(class_name)) for state in states for template in TEMPLATES]
            means.append(self.model.encode_text(tokenizer(prompts)).double().mean(0).numpy())
        return unit(np.stack(means))

    @torch.no_grad()
    def embed(self, path: Path) -> Embedded:
        visual, pixels = self.model.visual, self.pixels(path)
        image, patches = embed_tokens(visual, pixels, None)
        if self.name == "anomalib":
            patches = visual.ln_post(patches)
        grid = self.grid(patches)
        per_scale = {
            side: np.stack([embed_tokens(visual, pixels, window)[0].double().numpy() for window in windows(grid, side)])
            for side in SCALES
        }
        return Embedded(image.double().numpy(), per_scale, patches.double().numpy())

    @staticmethod
    def grid(patches: Any) -> int:
        return round(len(patches) ** 0.5)

    def score(self, query: Embedded, gallery: Sequence[Embedded], text: Vectors) -> tuple[float, NDArray[np.float32]]:
        grid = self.grid(query.patches)
        score = anomalous(query.image[None], text)[0]
        large, middle = (spread(anomalous(query.windows[side], text), grid, side) for side in (3, 2))
        found = 3 / (1 / large + 1 / middle + 1 / score)
        if gallery:
            parts = [distance(query.patches, np.concatenate([one.patches for one in gallery]))]
            for side in SCALES:
                to_nearest = distance(query.windows[side], np.concatenate([one.windows[side] for one in gallery]))
                parts.append(spread(to_nearest, grid, side))
            association = sum(parts) / 3
            found = found + association
            if self.name == "anomalib":
                found = found / 2
            score = (score + association.max()) / 2
        flat = torch.from_numpy(found.reshape(1, 1, grid, grid))
        upsampled = F.interpolate(flat, size=(self.side, self.side), mode="bilinear", align_corners=False)
        return float(score), upsampled[0, 0].numpy().astype(np.float32)


def unit(vectors: Vectors) -> Vectors:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def anomalous(vectors: Vectors, text: Vectors) -> Vectors:
    """The softmax over the cosines with both texts, of the anomalous one."""
    weights = np.exp(unit(vectors) @ text.T / TEMPERATURE)
    return weights[:, 1] / weights.sum(1)


def distance(vectors: Vectors, references: Vectors) -> Vectors:
    return ((1 - unit(vectors) @ unit(references).T) / 2).min(1)


def spread(scores: Vectors, grid: int, side: int) -> Vectors:
    """Of each patch, the number of windows over it by the sum of their inverse scores."""
    result = np.empty(grid * grid)
    for patch in range(grid * grid):
        over = [score for score, window in zip(scores, windows(grid, side), strict=True) if patch in window]
        result[patch] = len(over) / sum(1 / score for score in over)
    return result
