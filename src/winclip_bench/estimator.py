"""WinCLIP on one's own images, from Python, with scikit-learn's habits.

>>> from winclip_bench.estimator import WinCLIP
>>> from winclip_bench.data.demo import make_sample
>>> references = [make_sample("tile", "good", "train", index)[0] for index in range(4)]
>>> model = WinCLIP().fit(references, class_name="tile")
>>> prediction = model.predict([make_sample("tile", "good", "test", 0)[0], make_sample("tile", "stain", "test", 0)[0]])
>>> prediction.maps[0].shape, bool(prediction.scores[0] < prediction.scores[1])
((120, 120), True)

Everything is as in the `paper` protocol. `docs/own_parts.md` shows it at work.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from winclip_bench.clip.backbone import Backbone, Weights, find_weights, load_backbone
from winclip_bench.clip.encoder import Features
from winclip_bench.clip.prompts import compose
from winclip_bench.clip.tiles import Tiles, cut, stitch
from winclip_bench.clip.windows import incidence
from winclip_bench.data import read_image
from winclip_bench.errors import InputError
from winclip_bench.methods import linear_head, thresholds, winclip
from winclip_bench.reading import LARGEST_TEXT, parse_json, read_bytes

ImageLike = Path | str | Image.Image | NDArray[Any]

_FORMAT = 1  # of saved models
_LARGEST_HEAD = 2**24  # bytes; real ones have a few kB


@dataclass(frozen=True)
class Prediction:
    """Of n images, in their order.

    scores      [n] image scores in 0–1, higher is more anomalous
    maps        n anomaly maps in 0–1, float32 [H, W], the shorter side as long as the model's input
    anomalous   [n] bool, by the threshold that the references gave; None without one
    """

    scores: NDArray[np.float64]
    maps: list[NDArray[np.float32]]
    anomalous: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Settings:
    """What a fitted model was made with; enough to make it again."""

    backbone: str
    pretrained: str
    scales: tuple[int, ...]
    false_alarm_rate: float
    device: str
    precision: Literal["fp32", "bf16"]


class WinCLIP:
    """WinCLIP without references, WinCLIP+ with them.

    backbone          a name of conf/backbone/; `demo` is the small model that comes with the package
    pretrained        a tag or a checkpoint of that architecture, instead of the backbone's own
    scales            window sides in patches
    false_alarm_rate  what the threshold is to promise for normal images, 0–1
    device            cpu, cuda or auto

    After `fit`: `class_name_`, `threshold_` (a `methods.thresholds.Threshold`, or None). Raises InputError for what
    does not exist or does not fit together.
    """

    def __init__(
        self,
        backbone: str = "demo",
        *,
        pretrained: str | None = None,
        scales: Sequence[int] = (2, 3),
        false_alarm_rate: float = 0.05,
        device: str = "auto",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        if not 0 < false_alarm_rate < 1:
            raise InputError(f"false_alarm_rate={false_alarm_rate} must lie between 0 and 1")
        self._architecture, own = _backbone_settings(backbone)
        self._settings = Settings(
            backbone, pretrained or own, tuple(sorted(set(scales))), false_alarm_rate, device, precision
        )
        self.class_name_: str | None = None
        self.threshold_: thresholds.Threshold | None = None
        self._prototypes: Tensor | None = None
        self._references: Features | None = None

    @property
    def settings(self) -> Settings:
        """What it was made with."""
        return self._settings

    def fit(self, references: Iterable[ImageLike] = (), class_name: str = "object") -> "WinCLIP":
        """Learn what is normal: from the words of the class alone, or from reference images of it too.

        references   paths, PIL images or uint8 arrays [H, W, 3] or [H, W] of normal parts
        """
        words = _read("protocol", "paper")["class_words"].get(class_name, class_name.replace("_", " "))
        prompts = _read("prompts", "winclip")
        normal, anomalous = (
            self._backbone.encode_prompts(compose(words, prompts[states], prompts["templates"])).cpu()
            for states in ("normal_states", "anomalous_states")
        )
        self.class_name_ = class_name
        self._prototypes = winclip.prototypes(normal, anomalous, "mean_of_unit")
        found = [self._features(tiles) for tiles in self._tiles(references)]
        self._references = Features.concatenate(found) if found else None
        self.threshold_ = self._calibrated(found) if len(found) > 1 else None
        return self

    def predict(self, images: Iterable[ImageLike]) -> Prediction:
        """Score images, one after the other; raises InputError before `fit`."""
        scores, maps = [], []
        for score, anomaly_map in self.predict_each(images):
            scores.append(score)
            maps.append(anomaly_map)
        anomalous = None
        if self.threshold_ is not None:
            anomalous = self.threshold_.decide(torch.tensor(scores, dtype=torch.float64)).numpy()
        return Prediction(np.array(scores, dtype=np.float64), maps, anomalous)

    def predict_each(self, images: Iterable[ImageLike]) -> Iterator[tuple[float, NDArray[np.float32]]]:
        """Score and map of one image at a time, for more images than memory holds."""
        prototypes = self._fitted()
        for tiles in self._tiles(images):
            scores = self._scores(self._features(tiles), self._references, prototypes)
            assert scores.maps is not None
            pixels = winclip.upsample(scores.maps, self._backbone.grid, self._backbone.image_size)
            anomaly_map = stitch(pixels, tiles.corners, tiles.size).numpy()
            yield float(winclip.image_score(scores.text, scores.association_max)), anomaly_map

    def save(self, folder: Path | str) -> None:
        """Keep a fitted model as `model.safetensors` and `model.json`; `load` makes it again."""
        folder = Path(folder)
        tensors = {"prototypes": self._fitted()}
        if self._references is not None:
            tensors |= {"patches": self._references.patches, "image": self._references.image}
            tensors |= {f"windows-{side}": part for side, part in self._references.windows.items()}
        content = {
            "format": _FORMAT,
            "settings": asdict(self._settings),
            "weights_sha256": self._weights.sha256,
            "class_name": self.class_name_,
            "threshold": None if self.threshold_ is None else self.threshold_.as_dict(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
            (folder / "model.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{folder} cannot be written to ({error}); choose another folder") from error

    @classmethod
    def load(cls, folder: Path | str) -> "WinCLIP":
        """A model that `save` has kept. Raises InputError where it is damaged or its weights are other ones now."""
        folder = Path(folder)
        try:
            content = parse_json(read_bytes(folder / "model.json", LARGEST_TEXT))
            tensors = load_file(folder / "model.safetensors")
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']} instead of {_FORMAT}")
            model = cls(**content["settings"])
            _check_types(model._settings)
            model.class_name_ = str(content["class_name"])
            model.threshold_ = _threshold(content["threshold"])
            model._prototypes = tensors["prototypes"]
            if "patches" in tensors:
                windows = {side: tensors[f"windows-{side}"] for side in model._settings.scales}
                model._references = Features(tensors["image"], windows, tensors["patches"])
            fitted_with = content["weights_sha256"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise InputError(f"{folder} holds no model that can be loaded ({error}); save it again") from error
        if model._weights.sha256 != fitted_with:
            raise InputError(f"{folder} was fitted with other weights of {model._settings.backbone}; fit it again")
        return model

    def __getstate__(self) -> dict[str, Any]:
        """Without the model's weights, which are found again where they were found before."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_backbone", "_weights")}

    @cached_property
    def _weights(self) -> Weights:
        return find_weights(self._architecture, self._settings.pretrained, 0)

    @cached_property
    def _backbone(self) -> Backbone:
        wanted = self._settings.device
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.float32 if self._settings.precision == "fp32" else torch.bfloat16
        backbone = load_backbone(self._weights, torch.device(wanted), dtype)
        backbone.check_scales(self._settings.scales)
        return backbone

    def _fitted(self) -> Tensor:
        if self._prototypes is None:
            raise InputError("the model is not fitted; call fit(references, class_name=…) first")
        return self._prototypes

    def _tiles(self, images: Iterable[ImageLike]) -> Iterator[Tiles]:
        backbone = self._backbone
        for image in images:
            yield cut(
                _as_rgb(image), backbone.image_size, backbone.mean, backbone.std,
                non_square="tile", stride=1.0, resize="pil",
            )  # fmt: skip

    def _features(self, tiles: Tiles) -> Features:
        parts = [self._backbone.encode_images(tile[None], self._settings.scales).to("cpu") for tile in tiles.pixels]
        features = Features.concatenate(parts)
        return Features(features.image, features.windows, F.normalize(features.patches, dim=-1))

    def _scores(self, features: Features, references: Features | None, prototypes: Tensor) -> winclip.Scores:
        """As `pipelines.winclip` has it, without a store."""
        temperature, grid = _read("protocol", "paper")["temperature"], self._backbone.grid
        similarity = None
        if references is not None:
            similarity = winclip.Similarity(
                winclip.max_similarity(features.patches, references.patches.flatten(0, 1)),
                {
                    side: winclip.max_similarity(part, references.windows[side].flatten(0, 1))
                    for side, part in features.windows.items()
                },
            )
        return winclip.score(
            winclip.text_scores(features.image, prototypes, temperature),
            {side: winclip.text_scores(part, prototypes, temperature) for side, part in features.windows.items()},
            {side: incidence(grid, side) for side in self._settings.scales},
            grid=grid,
            similarity=similarity,
        )

    def _calibrated(self, found: Sequence[Features]) -> thresholds.Threshold:
        """A threshold from each reference's score against the others."""
        scores = []
        for index, features in enumerate(found):
            others = Features.concatenate([*found[:index], *found[index + 1 :]])
            left_out = self._scores(features, others, self._fitted())
            scores.append(float(winclip.image_score(left_out.text, left_out.association_max)))
        rate = self._settings.false_alarm_rate
        by_rank = thresholds.conformal(torch.tensor(scores, dtype=torch.float64), rate)
        if math.isfinite(by_rank.value):
            return by_rank
        return thresholds.normal(torch.tensor(scores, dtype=torch.float64), rate)


class TrainedHead:
    """The linear head that a run of method=linear_head has saved, on the backbone that it was trained on.

    file              `<category>.head.safetensors`
    backbone          a name of conf/backbone/
    pretrained        a tag or a checkpoint of that architecture, instead of the backbone's own
    device            cpu, cuda or auto

    Raises InputError for another file, and where the backbone is not the one of the head.
    """

    def __init__(
        self, file: Path | str, backbone: str = "demo", *, pretrained: str | None = None, device: str = "auto"
    ) -> None:
        architecture, own = _backbone_settings(backbone)
        try:
            self._head, about = linear_head.from_bytes(read_bytes(Path(file), _LARGEST_HEAD))
            self.class_name: str = str(about["class_name"])
            self.threshold = _threshold(about["threshold"])  # type: ignore[arg-type]
            self._how: dict[str, Any] = {key: about[key] for key in ("pixels", "non_square", "tile_stride", "resize")}
            trained_on = about["architecture"], about["weights_sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} is no head of method=linear_head ({error}); give the one of a record") from error
        weights = find_weights(architecture, pretrained or own, 0)
        if (architecture, weights.sha256) != trained_on:
            raise InputError(
                f"{file} was trained on {trained_on[0]} with weights of sha256 {trained_on[1]}, and "
                f"backbone={backbone} is {architecture} with {weights.sha256}; choose that backbone, or its checkpoint"
            )
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.backbone, self.pretrained = backbone, pretrained or own
        self._backbone = load_backbone(weights, torch.device(device), torch.float32)

    def predict_each(self, images: Iterable[ImageLike]) -> Iterator[float]:
        """Log-odds of being anomalous, of one image at a time."""
        backbone, how = self._backbone, self._how
        raw = how["pixels"] == "raw"
        mean, std = ((0.0,) * 3, (1.0,) * 3) if raw else (backbone.mean, backbone.std)
        for image in images:
            tiles = cut(
                _as_rgb(image), backbone.image_size, mean, std,
                non_square=how["non_square"], stride=how["tile_stride"], resize=how["resize"],
            )  # fmt: skip
            features = Features.concatenate([backbone.encode_images(tile[None], []).to("cpu") for tile in tiles.pixels])
            yield float(self._head.logits(features.image.mean(0, keepdim=True)))


def _check_types(settings: Settings) -> None:
    """Raise ValueError where the settings of a saved model are not what `WinCLIP` takes."""
    texts = all(isinstance(text, str) for text in (settings.pretrained, settings.device))
    if not (texts and all(type(side) is int for side in settings.scales) and settings.precision in ("fp32", "bf16")):
        raise ValueError("its settings are no settings")


def _as_rgb(image: ImageLike) -> Image.Image:
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise InputError(
            f"an image array is uint8 of shape [H, W, 3] or [H, W], not {array.dtype} of {list(array.shape)}; "
            "convert it, or give the path of the file"
        )
    return Image.fromarray(array).convert("RGB")


def _threshold(content: dict[str, Any] | None) -> thresholds.Threshold | None:
    if content is None:
        return None
    value = math.inf if content["value"] is None else float(content["value"])
    interval = None
    if content["interval"] is not None:
        low, high = content["interval"]
        interval = float(low), float(high)
    promised = None if content["promised"] is None else float(content["promised"])
    return thresholds.Threshold(
        str(content["rule"]), value, bool(content["inclusive"]), promised, interval, str(content["note"])
    )


def _backbone_settings(name: str) -> tuple[str, str]:
    """Architecture and weights of a backbone in conf/backbone."""
    folder = files("winclip_bench.conf") / "backbone"
    known = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    if name not in known:
        raise InputError(f"backbone={name} is not known; choose one of {', '.join(known)}")
    content = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    return content["architecture"], content["pretrained"]


@cache
def _read(group: str, option: str) -> dict[str, Any]:
    """An option of the configuration, without what Hydra would make of it."""
    place = files("winclip_bench.conf") / group / f"{option}.yaml"
    return dict(yaml.safe_load(place.read_text(encoding="utf-8")))
