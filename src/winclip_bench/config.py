"""The schema of the configuration: every setting, its type and its options.

YAML under conf/ fills it in; Hydra checks each value against it when a job is composed, before any job starts.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from winclip_bench.errors import InputError


class Layout(StrEnum):
    """How a dataset lies on disk."""

    demo = "demo"
    demo_pooled = "demo_pooled"
    mvtec = "mvtec"
    visa = "visa"
    btad = "btad"
    mvtec_loco = "mvtec_loco"
    mvtec_ad_2 = "mvtec_ad_2"
    kolektor_sdd2 = "kolektor_sdd2"
    folder = "folder"
    meta_json = "meta_json"
    manifest = "manifest"


class Method(StrEnum):
    """What turns features into scores."""

    winclip = "winclip"
    defect_types = "defect_types"
    prototypes = "prototypes"
    linear_head = "linear_head"


class Aggregation(StrEnum):
    """Which mean makes the windows over a patch, and the scales, one score."""

    harmonic = "harmonic"
    arithmetic = "arithmetic"


class Stage(StrEnum):
    """single: the best of good and all defects. two: normal or anomalous, then the best defect. defects_only: the best
    defect of the anomalous images."""

    single = "single"
    two = "two"
    defects_only = "defects_only"


class FirstStage(StrEnum):
    """What says normal or anomalous: the compositional difference, or WinCLIP (WinCLIP+ with references)."""

    compositional = "compositional"
    winclip = "winclip"


class ThresholdRule(StrEnum):
    """fixed: `threshold`. conformal, normal: calibrated on the references for `false_alarm_rate`. oracle_…: chosen on
    the test labels, which is no result."""

    fixed = "fixed"
    conformal = "conformal"
    normal = "normal"
    oracle_youden = "oracle_youden"
    oracle_f1 = "oracle_f1"


class Pixels(StrEnum):
    """Whether method=linear_head sees pixels normalised as its weights were trained, or as they are in 0–1."""

    normalised = "normalised"
    raw = "raw"


class Training(StrEnum):
    """right: one sigmoid, damaged copies as anomalies, the epoch chosen on training images. original: two sigmoids,
    mirrored copies, the epoch chosen on the test set."""

    right = "right"
    original = "original"


class ClassName(StrEnum):
    """How a category's name is spoken in a prompt."""

    words = "words"
    raw = "raw"


class TextPrototype(StrEnum):
    """mean_of_unit: normalise, average, normalise. mean_of_raw: average, normalise. unnormalised: normalise, average,
    and no more."""

    mean_of_unit = "mean_of_unit"
    mean_of_raw = "mean_of_raw"
    unnormalised = "unnormalised"


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
    """How the text map and the association map become one; none: there are image scores only, without any map."""

    mean = "mean"
    sum = "sum"
    none = "none"


class MaskResize(StrEnum):
    """nearest: the pixel at the centre (PIL's); nearest_floor: the one at the upper left corner (torch's `nearest`);
    bilinear: more than one half."""

    nearest = "nearest"
    nearest_floor = "nearest_floor"
    bilinear = "bilinear"


class ReferenceDraw(StrEnum):
    """How the k references are drawn from the training images; first: the first k by path, whatever the seed."""

    without_replacement = "without_replacement"
    with_replacement = "with_replacement"
    first = "first"


class Aupro(StrEnum):
    """Which of a record's two AUPROs the project reports: `aupro` or `aupro_200`, see docs/metrics.md."""

    exact = "exact"
    thresholds_200 = "thresholds_200"


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
    """Which images; `categories` null means all; `class_names` maps a category to the words of its prompts.

    `max_pixels` is the size limit of an image or mask. `mask_threshold` null: see `data.read_mask`. `resize_masks`
    lets a mask have another size than its image.
    """

    name: str = MISSING
    layout: Layout = MISSING
    root: str | None = None
    categories: list[str] | None = None
    class_names: dict[str, str] = field(default_factory=dict)
    max_pixels: int = 89_478_485
    mask_threshold: int | None = None
    resize_masks: bool = False


@dataclass
class BackboneConfig:
    """An open_clip architecture and its weights: a tag, a path, or `untrained` (drawn with `init_seed`)."""

    name: str = MISSING
    architecture: str = MISSING
    pretrained: str | None = MISSING
    init_seed: int = 0


@dataclass
class PromptsConfig:
    """States are put into templates at [s], class names into states at [c].

    Without anomalous states a score is the distance to the normal prototype.
    """

    name: str = MISSING
    normal_states: list[str] = MISSING
    anomalous_states: list[str] = MISSING
    templates: list[str] = MISSING


@dataclass
class MethodConfig:
    """The method by name, and which parts of WinCLIP take part.

    `image_term`: the image score is one of the maps that make the text map. `text_score` false: the association with
    the references alone.

    Of defect typing and the embedding baselines: `threshold_rule` cuts image scores (of `first_stage`, in defect
    typing); `defect_prompts` names a set in conf/prompts/defects or a file of one, null makes one from the defects'
    names.
    """

    name: Method = MISSING
    aggregation: Aggregation = Aggregation.harmonic
    image_term: bool = True
    text_score: bool = True
    first_stage: FirstStage = FirstStage.compositional
    threshold_rule: ThresholdRule = ThresholdRule.fixed
    threshold: float = 0.0
    false_alarm_rate: float = 0.05
    defect_prompts: str | None = None


@dataclass
class ProtocolConfig:
    """What implementations of one paper do differently; docs/protocols.md says who does what."""

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
    aupro: Aupro = MISSING
    pixels: Pixels = Pixels.normalised
    training: Training = Training.right


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
    """The mirror of the records; `group` null is the sweep that the run belongs to."""

    name: TrackerName = TrackerName.none
    mode: TrackerMode = TrackerMode.auto
    project: str = "winclip-bench"
    entity: str | None = None
    group: str | None = None


@dataclass
class Config:
    """One run; `split_categories` makes each of its categories a job of a sweep."""

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
    stage: Stage | None = None
    scales: list[int] = field(default_factory=lambda: [2, 3])
    results_dir: str = "results"
    save_maps: bool = False
    pictures: int = 24
    force: bool = False
    split_categories: bool = False


def register() -> None:
    """Make the schema known to Hydra as `schema`, the first entry of conf/config.yaml's defaults."""
    schema = OmegaConf.structured(Config)
    for names in (schema.dataset.class_names, schema.protocol.class_words):
        OmegaConf.set_struct(names, False)  # their keys are categories, which no schema can know
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
    _check_entries(config)
    _check_ranges(config)
    _check_method(config)
    for setting, prompts, mark, other in (
        ("normal_states", config.prompts.normal_states, "[c]", "[s]"),
        ("anomalous_states", config.prompts.anomalous_states, "[c]", "[s]"),
        ("templates", config.prompts.templates, "[s]", "[c]"),
    ):
        # Without anomalous states it is WinCLIP's one-class score, which no other method has.
        lacking = not prompts and (setting != "anomalous_states" or config.method.name is not Method.winclip)
        if lacking or any(mark not in prompt or other in prompt for prompt in prompts):
            raise InputError(f"prompts.{setting} needs at least one entry, each with {mark} and without {other} in it")


def _check_entries(config: Config) -> None:
    """What OmegaConf lets through: a list or a mapping of texts that has one of these among its entries."""
    entries: dict[str, tuple[Iterable[Any], type, str]] = {
        "dataset.categories": (config.dataset.categories or (), str, "names"),
        "dataset.class_names": (config.dataset.class_names.values(), str, "words"),
        "protocol.class_words": (config.protocol.class_words.values(), str, "words"),
        "prompts.normal_states": (config.prompts.normal_states, str, "texts"),
        "prompts.anomalous_states": (config.prompts.anomalous_states, str, "texts"),
        "prompts.templates": (config.prompts.templates, str, "texts"),
        "scales": (config.scales, int, "numbers"),
    }
    for setting, (values, kind, what) in entries.items():
        for value in values:
            if not isinstance(value, kind):
                raise InputError(f"{setting} has the entry {value!r}, but takes only {what}; quote what is one")


def _check_ranges(config: Config) -> None:
    positive = {
        "dataset.max_pixels": config.dataset.max_pixels,
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
    if config.pictures < 0:
        raise InputError(f"pictures={config.pictures} must be 0 (none) or how many to keep of each category")
    if config.dataset.mask_threshold is not None and not 1 <= config.dataset.mask_threshold <= 255:
        raise InputError(f"dataset.mask_threshold={config.dataset.mask_threshold} must be null or one of 1 to 255")
    if not 0 < config.method.false_alarm_rate < 1:
        raise InputError(f"method.false_alarm_rate={config.method.false_alarm_rate} must lie between 0 and 1")
    if config.k_shot < 0:
        raise InputError(f"k_shot={config.k_shot} must be 0 (zero-shot) or the number of reference images")
    if any(scale < 1 for scale in config.scales):
        raise InputError(f"scales={config.scales} must be window sides in patches, each at least 1")


def _check_method(config: Config) -> None:
    """Settings that only together make no sense."""
    method, name = config.method, config.method.name.value
    if (config.stage is not None) != (method.name is Method.defect_types):
        stage = "null" if config.stage is None else config.stage.value
        raise InputError(
            f"stage={stage} does not go with method={name}; stage is single, two or defects_only with "
            "method=defect_types and null with any other"
        )
    if method.name in (Method.prototypes, Method.linear_head) and config.k_shot < 1:
        raise InputError(f"k_shot={config.k_shot}, but method={name} learns from normal images; set it to 1 or more")
    if method.name is Method.linear_head and method.threshold_rule in (ThresholdRule.conformal, ThresholdRule.normal):
        raise InputError(
            f"method.threshold_rule={method.threshold_rule.value} calibrates on references, on which "
            "method=linear_head is trained; use fixed"
        )
    if config.save_maps and config.protocol.map_combination is MapCombination.none:
        raise InputError(
            "save_maps=true, but protocol.map_combination=none makes no maps; set one of the two otherwise"
        )
    if not (config.scales or method.image_term):
        raise InputError("method.image_term=false with scales=[] leaves nothing to make a map of; set one of the two")
    if not (config.k_shot or method.text_score):
        raise InputError(
            "method.text_score=false leaves the association with references alone; set k_shot to 1 or more"
        )
