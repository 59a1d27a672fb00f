"""The schema of the configuration: every setting, its type and its options.

YAML under conf/ fills it in; Hydra checks each value against it when a job is composed, before any job starts.
"""

import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from winclip_bench.errors import InputError


class Layout(StrEnum):
    """How a dataset lies on disk."""

    demo = "demo"
    mvtec = "mvtec"
    visa = "visa"
    folder = "folder"


class Method(StrEnum):
    """What turns features into scores."""

    winclip = "winclip"


class ClassName(StrEnum):
    """How a category's name is spoken in a prompt."""

    words = "words"
    raw = "raw"


class TextPrototype(StrEnum):
    """mean_of_unit: normalise, average, normalise. mean_of_raw: average, normalise."""

    mean_of_unit = "mean_of_unit"
    mean_of_raw = "mean_of_raw"


class NonSquare(StrEnum):
    """tile: square tiles of the shorter side. squash: the aspect ratio is given up."""

    tile = "tile"
    squash = "squash"


class Resize(StrEnum):
    """Bicubic with antialiasing, by PIL on 8-bit pixels or by torch on floats."""

    pil = "pil"
    tensor = "tensor"


class PatchFeatures(StrEnum):
    """Where the last block's patch tokens are taken."""

    before_ln_post = "before_ln_post"
    after_ln_post = "after_ln_post"


class MapCombination(StrEnum):
    """How the text map and the association map become one."""

    mean = "mean"
    sum = "sum"


class MaskResize(StrEnum):
    """nearest, or bilinear and more than one half."""

    nearest = "nearest"
    bilinear = "bilinear"


class ReferenceDraw(StrEnum):
    """How the k references are drawn from the training images."""

    without_replacement = "without_replacement"
    with_replacement = "with_replacement"


class Device(StrEnum):
    """Where the encoder runs; auto is cuda where there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(StrEnum):
    """Arithmetic of the encoder."""

    fp32 = "fp32"
    bf16 = "bf16"


class TrackerName(StrEnum):
    """Where a record is mirrored to."""

    none = "none"
    wandb = "wandb"


class TrackerMode(StrEnum):
    """auto: online where a key is configured, offline elsewhere."""

    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class DatasetConfig:
    """Which images; `categories` null means all; `class_names` maps a category to the words of its prompts."""

    name: str = MISSING
    layout: Layout = MISSING
    root: str | None = None
    categories: list[str] | None = None
    class_names: dict[str, str] = field(default_factory=dict)


@dataclass
class BackboneConfig:
    """An open_clip architecture and its weights: a tag, a path, or `untrained` (drawn with `init_seed`)."""

    name: str = MISSING
    architecture: str = MISSING
    pretrained: str | None = MISSING
    init_seed: int = 0


@dataclass
class PromptsConfig:
    """States are put into templates at [s], class names into states at [c]."""

    name: str = MISSING
    normal_states: list[str] = MISSING
    anomalous_states: list[str] = MISSING
    templates: list[str] = MISSING


@dataclass
class MethodConfig:
    """The method by name."""

    name: Method = MISSING


@dataclass
class ProtocolConfig:
    """What implementations of one paper do differently."""

    name: str = MISSING
    class_name: ClassName = MISSING
    class_words: dict[str, str] = field(default_factory=dict)
    text_prototype: TextPrototype = MISSING
    temperature: float = MISSING
    non_square: NonSquare = MISSING
    tile_stride: float = 1.0
    resize: Resize = MISSING
    patch_features: PatchFeatures = MISSING
    map_combination: MapCombination = MISSING
    mask_resize: MaskResize = MISSING
    references: ReferenceDraw = MISSING


@dataclass
class ReferencesConfig:
    """`file` names the references instead of a draw."""

    file: str | None = None


@dataclass
class RuntimeConfig:
    """How a run is computed, never what it computes, except for the precision."""

    device: Device = Device.auto
    precision: Precision = Precision.fp32
    batch_size: int | None = None
    workers: int = 2
    cache_dir: str = MISSING


@dataclass
class TrackerConfig:
    """The mirror of the records."""

    name: TrackerName = TrackerName.none
    mode: TrackerMode = TrackerMode.auto
    project: str = "winclip-bench"
    entity: str | None = None


@dataclass
class Config:
    """One run."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    k_shot: int = 0
    seed: int = 0
    scales: list[int] = field(default_factory=lambda: [2, 3])
    results_dir: str = "results"
    save_maps: bool = False
    force: bool = False


def register() -> None:
    """Make the schema known to Hydra as `schema`, the first entry of conf/config.yaml's defaults."""
    schema = OmegaConf.structured(Config)
    OmegaConf.set_struct(schema.dataset.class_names, False)  # its keys are categories, which no schema can know
    ConfigStore.instance().store(name="schema", node=schema)


def resolve(cfg: DictConfig) -> Config:
    """The composed configuration as plain dataclasses, its values checked.

    Raises InputError where a value has the right type but makes no sense.
    """
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, Config)
    _check(config)
    config.scales = sorted(set(config.scales))
    return config


def as_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested dicts of plain JSON values, as records keep it."""
    plain = asdict(config, dict_factory=lambda items: {key: _plain(value) for key, value in items})
    return {str(key): value for key, value in plain.items()}


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, StrEnum) else value


def _check(config: Config) -> None:
    positive = {
        "runtime.batch_size": config.runtime.batch_size,
        "runtime.workers": config.runtime.workers,
        "protocol.temperature": config.protocol.temperature,
        "protocol.tile_stride": config.protocol.tile_stride,
    }
    for setting, value in positive.items():
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{setting}={value} must be a number greater than 0")
    if config.protocol.tile_stride > 1:
        raise InputError(
            f"protocol.tile_stride={config.protocol.tile_stride} would leave gaps between tiles; use at most 1"
        )
    if config.k_shot < 0:
        raise InputError(f"k_shot={config.k_shot} must be 0 (zero-shot) or the number of reference images")
    if any(scale < 1 for scale in config.scales):
        raise InputError(f"scales={config.scales} must be window sides in patches, each at least 1")
    for setting, prompts, mark, other in (
        ("normal_states", config.prompts.normal_states, "[c]", "[s]"),
        ("anomalous_states", config.prompts.anomalous_states, "[c]", "[s]"),
        ("templates", config.prompts.templates, "[s]", "[c]"),
    ):
        if not prompts or any(mark not in prompt or other in prompt for prompt in prompts):
            raise InputError(f"prompts.{setting} needs at least one entry, each with {mark} and without {other} in it")
