"""A CLIP model with known weights: images and windows to features, prompts to embeddings."""

import difflib
import hashlib
import logging
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from torch import Tensor, nn

from winclip_bench.clip.allocator import keep_freed_memory
from winclip_bench.clip.encoder import Features, encode
from winclip_bench.clip.text import encode_text
from winclip_bench.clip.towers import Tower, take_apart
from winclip_bench.errors import InputError

UNTRAINED = "untrained"
SHIPPED = "shipped"
_WEIGHTS = Path(__file__).parent / "weights"

open_clip.add_model_config(Path(__file__).parent / "architectures")


@dataclass
class Backbone:
    """A loaded model.

    image_size       side of its square input, pixels
    mean, std        of its pixels in 0–1, per channel
    """

    architecture: str
    model: Any
    tower: Tower
    tokenizer: Any
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: torch.device

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.tower.grid

    def check_scales(self, scales: Sequence[int]) -> None:
        """Raise InputError for a window that is larger than the grid."""
        for side in scales:
            if side > self.grid:
                raise InputError(
                    f"scales={list(scales)} has a window of {side}×{side} patches, but {self.architecture} has a grid "
                    f"of {self.grid}×{self.grid}"
                )

    def encode_images(self, pixels: Tensor, scales: Sequence[int], full: bool = True) -> Features:
        """Features of normalised pixels [B, 3, S, S], on the model's device; see `encode`."""
        return encode(self.tower, pixels.to(self.device), scales, full)

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings [n, E] of prompts, not normalised.

        Raises InputError for a prompt that is longer than the model's context; open_clip would cut it silently.
        """
        tokens = self.tokenizer(list(prompts))
        context = tokens.shape[1]
        roomier = self.tokenizer(list(prompts), context_length=context + 1)
        for prompt, same in zip(prompts, (tokens == roomier[:, :context]).all(1), strict=True):
            if not same:
                raise InputError(
                    f"the prompt {prompt!r} is longer than the {context} tokens of {self.architecture}; "
                    "shorten the template, the state or the class name"
                )
        return torch.cat([encode_text(self.model, part.to(self.device)).float() for part in tokens.split(64)])

    @torch.inference_mode()
    def normalise_patches(self, patches: Tensor) -> Tensor:
        """ln_post on patch features [..., width], for protocols that take them after it."""
        return self.tower.patch_norm(patches.to(self.device)).cpu()


@dataclass(frozen=True)
class Weights:
    """Weights that exist but need not be loaded yet: enough to name a run.

    pretrained   a tag of the architecture, a path, `shipped` or `untrained`
    file         the checkpoint; None for untrained weights
    sha256       of the checkpoint's bytes; of all values for untrained weights
    image_size   side of the square input, pixels
    mean, std    of the pixels in 0–1, per channel, that the weights were trained with
    """

    architecture: str
    pretrained: str
    init_seed: int
    file: Path | None
    sha256: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def find_weights(architecture: str, pretrained: str | None, init_seed: int = 0) -> Weights:
    """The weights of a tag (downloaded if need be), of a checkpoint file, or explicitly none.

    architecture   name of an open_clip configuration
    pretrained     one of its tags, a path, `shipped` for weights that come with this package, or `untrained`: random
                   ones drawn with `init_seed`

    Raises InputError for an unknown architecture or tag, and for weights that cannot be fetched.
    """
    if architecture not in open_clip.list_models():
        near = difflib.get_close_matches(architecture, open_clip.list_models(), n=5, cutoff=0.3)
        raise InputError(
            f"backbone.architecture={architecture} is unknown to open_clip {open_clip.__version__}; "
            f"near ones are {', '.join(near)}"
        )
    if not pretrained:
        raise InputError(
            "backbone.pretrained is empty, which would give random weights; name a tag or a checkpoint file, or say "
            f"backbone.pretrained={UNTRAINED} if random weights are what you want"
        )
    if pretrained == UNTRAINED:
        values = _untrained(architecture, init_seed).state_dict()
        digest = hashlib.sha256()
        for name, value in sorted(values.items()):
            digest.update(name.encode())
            digest.update(value.contiguous().numpy().tobytes())
        return Weights(
            architecture, pretrained, init_seed, None, digest.hexdigest(), *_pixels(architecture, pretrained)
        )
    file = _checkpoint(architecture, pretrained)
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256")
    except OSError as error:
        raise InputError(f"backbone.pretrained={pretrained}: {file} cannot be read ({error.strerror})") from error
    return Weights(architecture, pretrained, 0, file, digest.hexdigest(), *_pixels(architecture, pretrained))


Statistics = tuple[float, float, float]


def _pixels(architecture: str, pretrained: str) -> tuple[int, Statistics, Statistics]:
    """Image size, mean and standard deviation that go with some weights.

    A tag knows its own statistics; a file has those that all tags of its architecture share, or else OpenAI's.
    """
    size = open_clip.get_model_config(architecture)["vision_cfg"].get("image_size", 224)
    tags = [get_pretrained_cfg(architecture, tag) for tag in open_clip.list_pretrained_tags_by_model(architecture)]
    known = [get_pretrained_cfg(architecture, pretrained)] if get_pretrained_cfg(architecture, pretrained) else tags
    statistics = {
        (tuple(tag.get("mean") or OPENAI_DATASET_MEAN), tuple(tag.get("std") or OPENAI_DATASET_STD)) for tag in known
    }
    mean, std = statistics.pop() if len(statistics) == 1 else (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    return _square(size, architecture), tuple(mean), tuple(std)


def load_backbone(weights: Weights, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Backbone:
    """The model of `weights` with its image tower's blocks in `dtype`, self-checked.

    Raises InputError for a checkpoint that does not fit, for towers that windows cannot be taken from, and where
    the installed versions compute something else than they should.
    """
    device = device or torch.device("cpu")
    if device.type == "cpu":
        keep_freed_memory()
    architecture = weights.architecture
    model = _untrained(architecture, weights.init_seed) if weights.file is None else _load(weights)
    model = model.to(device).eval().requires_grad_(False)
    backbone = Backbone(
        architecture=architecture,
        model=model,
        tower=take_apart(model.visual, architecture, dtype),
        tokenizer=_tokenizer(architecture),
        image_size=weights.image_size,
        mean=weights.mean,
        std=weights.std,
        device=device,
    )
    self_check(backbone)
    return backbone


def _tokenizer(architecture: str) -> Any:
    try:
        return open_clip.get_tokenizer(architecture)
    except Exception as error:
        name = open_clip.get_model_config(architecture)["text_cfg"].get("hf_tokenizer_name", "")
        raise InputError(
            f"backbone.architecture={architecture} needs the tokenizer {name}, which could not be had "
            f"({_first_line(error)}); install the package transformers and check the network"
        ) from error


def self_check(backbone: Backbone) -> None:
    """Refuse a model whose window embeddings are not what they should be, whatever the versions installed.

    Three faults that raise nothing by themselves: the image embedding is not the model's own; a window depends on
    what else is in the batch; windows do not depend on the image. The last one happens where tokens and batch are
    exchanged: every window embedding is then the same constant, and only the image scores stay right.
    """
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, backbone.image_size, backbone.image_size, generator=generator).to(backbone.device)
    side = min(2, backbone.grid)
    together = backbone.encode_images(pixels, [side])
    alone = backbone.encode_images(pixels[:1], [side])
    with torch.inference_mode():
        own = nn.functional.normalize(backbone.model.encode_image(pixels).float(), dim=-1)

    windows = together.windows[side]
    tolerance = 1e-4 if backbone.tower.dtype == torch.float32 else 5e-2
    faults = {
        "its image embedding differs from the model's own": (together.image - own).abs().max() > tolerance,
        "a window depends on what else is in the batch": (windows[:1] - alone.windows[side]).abs().max() > tolerance,
        "windows do not depend on the image": (windows[0] - windows[1]).abs().max() < 1e-6,
    }
    for fault, found in faults.items():
        if found:
            raise InputError(
                f"backbone.architecture={backbone.architecture} fails the self-check with open_clip "
                f"{open_clip.__version__} and torch {torch.__version__}: {fault}; use the versions of constraints.txt"
            )


def _untrained(architecture: str, seed: int) -> Any:
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # open_clip warns that nothing was loaded, which is what was asked for
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return open_clip.create_model(architecture, pretrained=None, pretrained_text=False)
    finally:
        root.setLevel(level)


def _checkpoint(architecture: str, pretrained: str) -> Path:
    """The file with the weights, fetched if it has to be."""
    if pretrained == SHIPPED:
        shipped = _WEIGHTS / f"{architecture}.safetensors"
        if not shipped.is_file():
            raise InputError(f"backbone.pretrained={SHIPPED}: no weights of {architecture} come with this package")
        return shipped
    if _is_file(Path(pretrained)):
        return Path(pretrained)
    tag = get_pretrained_cfg(architecture, pretrained)
    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise InputError(
            f"backbone.pretrained={pretrained} is neither a file nor a tag of {architecture}; its tags are {tags}"
        )
    try:
        return Path(download_pretrained(tag))
    except Exception as error:
        raise InputError(
            f"backbone.pretrained={pretrained}: the weights of {architecture} could not be downloaded "
            f"({_first_line(error)}); check the network, or give the path of a checkpoint file"
        ) from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is longer than any file's, for example
        return False


def _check_size(file: Path) -> None:
    """Raise ValueError for a checkpoint that holds more than its file: one that unpacks to any size when it is read.

    torch stores tensors as they are, and of what else an archive may hold (the code of TorchScript is compressed) there
    is little.
    """
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        declared = sum(member.file_size for member in archive.infolist())
    if declared > 2 * file.stat().st_size:
        raise ValueError(f"it would unpack to {declared:,} bytes; save it with torch.save")


def _load(weights: Weights) -> Any:
    architecture, pretrained = weights.architecture, weights.pretrained
    # A tag carries its own mean and standard deviation, so that it is passed on as a tag although its file is known.
    try:
        if weights.file is not None:
            _check_size(weights.file)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            source = str(weights.file) if pretrained == SHIPPED else pretrained
            with torch.random.fork_rng(devices=[]):  # first weights are drawn although others take their place
                return open_clip.create_model(architecture, pretrained=source, require_pretrained=True)
    except UserWarning as error:
        quick = architecture.endswith("-quickgelu")
        other = architecture.removesuffix("-quickgelu") if quick else f"{architecture}-quickgelu"
        raise InputError(
            f"backbone.pretrained={pretrained} was trained with another activation than {architecture} has; "
            f"use backbone.architecture={other}"
        ) from error
    except UnpicklingError as error:
        raise InputError(
            f"backbone.pretrained={pretrained}: {weights.file} does not fit {architecture}: it holds more than "
            "tensors, which is never executed; give the model's state dict as .pt or .safetensors"
        ) from error
    except Exception as error:
        raise InputError(
            f"backbone.pretrained={pretrained}: {weights.file} does not fit {architecture} ({_first_line(error)}); "
            "give a checkpoint of that architecture"
        ) from error


def _square(size: Any, architecture: str) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise InputError(f"backbone.architecture={architecture} takes {height}×{width} images; a square one is needed")
    return int(height)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]).rstrip(".:")[:300] if lines else type(error).__name__
