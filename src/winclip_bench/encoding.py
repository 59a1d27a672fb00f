"""Images and prompts to features through the store: what is stored is not computed again.

What is scored is always what was stored, so that a run that encodes, one that reads and one without a store agree
bit for bit.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from winclip_bench.clip.backbone import Backbone, Weights
from winclip_bench.clip.encoder import Features
from winclip_bench.clip.tiles import Tiles, cut
from winclip_bench.data import MAX_PIXELS, UNREADABLE, check_unchanged, prefetch, read_image
from winclip_bench.errors import InputError, RunError
from winclip_bench.features import ENCODER_VERSION, FeatureStore, Geometry
from winclip_bench.features.shards import Item

log = logging.getLogger(__name__)

# A shard is written when it has so many tiles (about 220 MB of ViT-B-16-plus-240) or has been begun so long ago,
# whichever comes first: a killed run loses no more than that.
SHARD_TILES = 128
SHARD_SECONDS = 30.0


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the tiles that are encoded; see `clip.tiles.cut`."""

    non_square: Literal["tile", "squash"]
    stride: float
    resize: Literal["pil", "tensor"]


@dataclass(frozen=True)
class ImageFile:
    """An image and the digest under which its features are kept."""

    path: Path
    sha256: str


class Encoder:
    """Features of images and prompts of one backbone, read from its stores or computed and stored.

    backbone    a function, because what finds everything stored loads no model
    cache_dir   None keeps features in memory only
    max_pixels  size limit of an image that is read
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone],
        weights: Weights,
        preprocessing: Preprocessing,
        precision: Literal["fp32", "bf16"],
        cache_dir: Path | None,
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._load = backbone
        self._max_pixels = max_pixels
        self.image_size = weights.image_size
        self._preprocessing = preprocessing
        model = {"architecture": weights.architecture, "weights": weights.sha256, "encoder": ENCODER_VERSION}
        seen = {"image_size": weights.image_size, "mean": weights.mean, "std": weights.std, **asdict(preprocessing)}
        dtype = np.float32 if precision == "fp32" else np.float16
        self._largest = float(np.finfo(dtype).max)
        self._images = FeatureStore(cache_dir, {**model, "preprocessing": seen, "precision": precision}, dtype)
        self._prompts = FeatureStore(cache_dir, {**model, "prompts": True}, np.float32)

    def backbone(self) -> Backbone:
        """The model, loaded when it is first needed. Raises RunError where that fails."""
        try:
            return self._load()
        except InputError as error:
            raise RunError(str(error)) from error
        except torch.cuda.OutOfMemoryError as error:
            raise RunError("the model is too much for the device's memory; use runtime.device=cpu") from error

    def prompts(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings [n, E] of prompts, not normalised."""
        for lacking in self._prompts.missing(["prompts"], prompts).values():
            embeddings = self.backbone().encode_prompts(lacking)
            self._prompts.add("prompts", [Item(prompt, 1, {}) for prompt in lacking], embeddings.cpu().numpy())
        return torch.from_numpy(np.concatenate([self._prompts.rows("prompts", prompt) for prompt in prompts]))

    def images(
        self,
        images: Sequence[ImageFile],
        scales: Sequence[int],
        *,
        batch_size: int | None,
        workers: int,
        progress: Callable[[int, int], None] = lambda stored, encoded: None,
    ) -> int:
        """See to it that the features of all images are stored; returns how many images had to be encoded.

        batch_size   tiles at once; None is one on a CPU, where more cost memory and gain nothing, and 16 on a GPU
        progress     told how many more images were found in the store, and how many encoded
        """
        for image in images:
            if image.sha256 == UNREADABLE:  # no key: whatever is read from it now is not what was hashed
                read_image(image.path, self._max_pixels)
                raise InputError(f"{image.path} could not be read a moment ago and now can; run the same command again")
        kinds = ["image", "patches", *map(windows_kind, scales)]
        absent = self._images.missing(kinds, (image.sha256 for image in images))
        lacking: dict[str, list[str]] = {}
        for kind, keys in absent.items():
            for key in keys:
                lacking.setdefault(key, []).append(kind)
        by_kinds: dict[tuple[str, ...], list[ImageFile]] = {}
        for image in dict.fromkeys(images):
            if image.sha256 in lacking:
                by_kinds.setdefault(tuple(lacking.pop(image.sha256)), []).append(image)
        total = sum(map(len, by_kinds.values()))
        progress(len(images) - total, 0)
        for some, files in by_kinds.items():
            for items, features in self._encode(
                files, some, scales, batch_size=batch_size, workers=workers, progress=progress
            ):
                _refuse_non_finite(items, features, files, self._largest)
                for kind in some:
                    self._images.add(kind, items, _part(features, kind).numpy())
        return total

    def geometry(self, image: ImageFile) -> Geometry:
        """Where the tiles of a stored image lie."""
        return Geometry.of(self._images.about("image", image.sha256))

    def features(self, images: Sequence[ImageFile], kind: str) -> Tensor:
        """Rows of stored images, one after the other, in float32: `image`, `patches` or `windows-<side>`."""
        rows = [self._images.rows(kind, image.sha256) for image in images]
        return torch.from_numpy(np.concatenate(rows).astype(np.float32, copy=False))

    def grid(self, image: ImageFile) -> int:
        """Patches per side, as the features of a stored image have them."""
        return math.isqrt(self._images.rows("patches", image.sha256).shape[1])

    def forget(self) -> None:
        """Drop what could not be kept on disk."""
        self._images.forget()

    def _encode(
        self,
        files: Sequence[ImageFile],
        kinds: Sequence[str],
        scales: Sequence[int],
        *,
        batch_size: int | None,
        workers: int,
        progress: Callable[[int, int], None],
    ) -> Iterator[tuple[list[Item], Features]]:
        """Shards of encoded images; decoded in the background while the model works on the ones before."""
        backbone = self.backbone()
        try:
            backbone.check_scales(scales)
        except InputError as error:
            raise RunError(str(error)) from error
        wanted = [side for side in scales if windows_kind(side) in kinds]
        full = "image" in kinds or "patches" in kinds

        def load(image: ImageFile) -> tuple[ImageFile, Tiles, tuple[int, int]]:
            decoded = read_image(image.path, self._max_pixels)
            check_unchanged(image.path, image.sha256)
            how = self._preprocessing
            tiles = cut(
                decoded, backbone.image_size, backbone.mean, backbone.std,
                non_square=how.non_square, stride=how.stride, resize=how.resize,
            )  # fmt: skip
            return image, tiles, decoded.size

        items: list[Item] = []
        parts: list[Features] = []
        batch_size = batch_size or (16 if backbone.device.type == "cuda" else 1)
        begun = time.monotonic()
        loaded = prefetch(files, load, workers=workers, ahead=max(8, 2 * batch_size))
        fits = batch_size
        for batch in _batches(loaded, batch_size):
            pixels = torch.cat([tiles.pixels for _, tiles, _ in batch])
            while len(pixels):  # an image can have more tiles than a batch has room for
                try:
                    parts.append(backbone.encode_images(pixels[:fits], wanted, full).to("cpu"))
                except torch.cuda.OutOfMemoryError as error:
                    tried = min(fits, len(pixels))
                    if tried == 1:
                        raise RunError(
                            "one image alone is too much for the device's memory; use runtime.device=cpu"
                        ) from error
                    fits = tried // 2
                    log.warning("out of device memory with %d images at once; going on with %d", tried, fits)
                    torch.cuda.empty_cache()
                else:
                    pixels = pixels[fits:]
            for image, tiles, original_size in batch:
                about = asdict(Geometry(tiles.corners, tiles.size, original_size))
                items.append(Item(image.sha256, len(tiles.pixels), about))
            progress(0, len(batch))
            if sum(item.rows for item in items) >= SHARD_TILES or time.monotonic() - begun > SHARD_SECONDS:
                yield items, Features.concatenate(parts)
                items, parts, begun = [], [], time.monotonic()
        if items:
            yield items, Features.concatenate(parts)


def _refuse_non_finite(items: Sequence[Item], features: Features, files: Sequence[ImageFile], largest: float) -> None:
    """Raise InputError naming the first image whose features are NaN, or infinite in the dtype of the store, before
    any of them is stored."""
    parts = (features.image, features.patches, *features.windows.values())
    finite = torch.stack([(part.flatten(1).abs() <= largest).all(1) for part in parts]).all(0)
    for item, sound in zip(items, finite.split([item.rows for item in items]), strict=True):
        if not sound.all():
            path = next(image.path for image in files if image.sha256 == item.key)
            raise InputError(
                f"the features of {path} are not finite; check that image, the weights and runtime.precision"
            )


def windows_kind(side: int) -> str:
    """Under which name window embeddings are stored."""
    return f"windows-{side}"


def _part(features: Features, kind: str) -> Tensor:
    if kind in ("image", "patches"):
        return features.image if kind == "image" else features.patches
    return features.windows[int(kind.removeprefix("windows-"))]


def _batches(
    loaded: Iterable[tuple[ImageFile, Tiles, tuple[int, int]]], batch_size: int
) -> Iterator[list[tuple[ImageFile, Tiles, tuple[int, int]]]]:
    """Images together until they have at least `batch_size` tiles."""
    batch: list[tuple[ImageFile, Tiles, tuple[int, int]]] = []
    for item in loaded:
        batch.append(item)
        if sum(len(tiles.pixels) for _, tiles, _ in batch) >= batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
