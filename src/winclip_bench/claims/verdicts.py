"""Which claims hold: records against published numbers, by the rule that docs/claims.md states.

Percent everywhere. A number is compared only with records of the same thing; what differs is named instead.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from scipy.special import stdtrit

from winclip_bench.claims.published import MEAN, Claim, Settings
from winclip_bench.metrics import spread
from winclip_bench.records import Record

GRAIN = 0.1  # points: what printing a value and its std with one decimal can hide, and all that is forgiven
LEVEL = 0.95
LEAST_DRAWS = 5  # fewer say too little about the spread, and the paper's own numbers are over five
WIDEST = 2.0  # points either way: re-implementations of WinCLIP differ by less, so a wider interval would hide them

_MISSING = "missing"  # a key that a record's configuration does not have
_SLACK = 1e-9  # binary floats: 91.9 − 91.8 is a little more than 0.1
_SECTIONS = {"typing", "summary"}  # of a record, beside its metrics
_AKIN = {"aupr_sp": "ap_sp", "ap_sp": "aupr_sp", "aupro": "aupro_200", "aupro_200": "aupro"}
_NO_IDENTITY = {"seed", "results_dir", "save_maps", "force", "pictures", "tracker"}
_PART_OF_IDENTITY = {
    "backbone": {"architecture"},
    "dataset": {"name", "class_names", "mask_threshold"},
    "runtime": {"precision"},
}
_NO_CONTENT = {"prompts": {"name"}, "protocol": {"name", "aupro"}}  # how it is called and read


class Verdict(StrEnum):
    """What has become of a claim."""

    reproduced = "reproduced"
    above = "above"
    below = "below"
    not_comparable = "not comparable"
    not_run = "not run"


@dataclass(frozen=True)
class Estimate:
    """Our number over the draws of the references.

    mean       over the draws
    low, high  where a mean over as many draws as the claim's would lie in 95 % of all cases; None for fewer than two
               draws, and where nothing is drawn
    draws      how many there are of ours
    """

    mean: float
    low: float | None
    high: float | None
    draws: int


@dataclass(frozen=True)
class Result:
    """A claim, what was measured, and the verdict.

    difference  measured − claimed, points
    why         what differs or is missing, a sentence each; for a verdict by the rule mostly empty
    runs        the runs whose records were compared
    """

    claim: Claim
    verdict: Verdict
    why: tuple[str, ...] = ()
    measured: Estimate | None = None
    runs: tuple[str, ...] = ()

    @property
    def difference(self) -> float | None:
        return None if self.measured is None else self.measured.mean - self.claim.value


@dataclass(frozen=True)
class Setup:
    """Runs that are the same but for the draw of the references: seed -> category -> record."""

    draws: Mapping[int, Mapping[str, Record]]

    @property
    def any(self) -> Record:
        return next(iter(next(iter(self.draws.values())).values()))

    @property
    def categories(self) -> set[str]:
        return {category for run in self.draws.values() for category in run}


def estimate(values: Sequence[float], claim_draws: int | None) -> Estimate:
    """Mean of at least one value, with the Student-t interval for the mean of ``claim_draws`` further ones.

    Its half width is t · s · √(1/n + 1/m) for n values of standard deviation s and m = ``claim_draws``: a claim is
    itself a mean over few draws, often over one, and as uncertain as that.

    >>> found = estimate([94.0, 95.0, 96.0], 1)  # ± 4.303 · 1 · √(1/3 + 1)
    >>> found.mean, round(found.low, 2), round(found.high, 2)
    (95.0, 90.03, 99.97)
    >>> estimate([91.8], None)
    Estimate(mean=91.8, low=None, high=None, draws=1)
    """
    found = spread(dict(enumerate(values)))
    assert found.mean is not None
    if claim_draws is None or found.std is None:
        return Estimate(found.mean, None, None, found.count)
    t = float(stdtrit(found.count - 1, (1 + LEVEL) / 2))
    half = t * found.std * math.sqrt(1 / found.count + 1 / claim_draws)
    return Estimate(found.mean, found.mean - half, found.mean + half, found.count)


def judge(measured: Estimate, value: float, std: float | None, claim_draws: int | None) -> tuple[Verdict, str]:
    """The rule: verdict on a number obtained in the same way as the claim's, and a sentence where it takes one.

    value, std   as claimed, percent; std None where none is printed
    claim_draws  of the references that the claim is a mean over; None where nothing is drawn

    >>> judge(estimate([91.86], None), 91.8, None, None)[0], judge(estimate([91.5], None), 91.8, None, None)[0]
    (<Verdict.reproduced: 'reproduced'>, <Verdict.below: 'below'>)
    """
    difference = measured.mean - value
    beyond = Verdict.above if difference > 0 else Verdict.below
    if claim_draws is None:
        return (Verdict.reproduced if abs(difference) <= GRAIN + _SLACK else beyond), ""
    if measured.draws < LEAST_DRAWS or measured.low is None or measured.high is None:
        return Verdict.not_comparable, f"draws {measured.draws}, at least {LEAST_DRAWS} are needed"
    within = measured.low - GRAIN - _SLACK <= value <= measured.high + GRAIN + _SLACK
    if not within or (std is not None and abs(difference) > std + GRAIN + _SLACK):
        return beyond, ""
    half = (measured.high - measured.low) / 2
    if std is None and half > WIDEST:
        return Verdict.not_comparable, f"draws spread too far: ±{half:.1f} points of the claim's would all agree"
    return Verdict.reproduced, ""


def compare(claims: Iterable[Claim], records: Iterable[Record]) -> list[Result]:
    """One result per claim, in their order."""
    found: dict[tuple[str, int], list[Setup]] = {}
    for setup in setups(records):
        found.setdefault((setup.any.dataset, setup.any.config["k_shot"]), []).append(setup)
    return [_result(claim, found.get((claim.settings.dataset, claim.settings.k_shot), [])) for claim in claims]


def setups(records: Iterable[Record]) -> list[Setup]:
    """Records by what they are of, the draw of the references apart, in an order that their own does not change."""
    found: dict[str, dict[int, dict[str, Record]]] = {}
    for record in sorted(records, key=lambda record: (record.dataset, record.run_id, record.category)):
        seed = record.config["seed"] if record.config["k_shot"] else 0
        run = found.setdefault(_identity(record), {}).setdefault(seed, {})
        run.setdefault(record.category, record)
    return [Setup(dict(sorted(draws.items()))) for draws in found.values()]


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that the numbers depend on, the seed and the names of presets left out."""
    content = {key: value for key, value in config.items() if key not in _NO_IDENTITY}
    for group, kept in _PART_OF_IDENTITY.items():
        if isinstance(content.get(group), Mapping):
            content[group] = {key: value for key, value in content[group].items() if key in kept}
    for group, dropped in _NO_CONTENT.items():
        if isinstance(content.get(group), Mapping):
            content[group] = {key: value for key, value in content[group].items() if key not in dropped}
    return content


def _identity(record: Record) -> str:
    provenance = [record.provenance.get(key) for key in ("weights_sha256", "dataset_digest")]
    return json.dumps([record.dataset, identity(record.config), provenance], sort_keys=True)


def _result(claim: Claim, found: Iterable[Setup]) -> Result:
    """The claim against the setup that comes nearest to its settings.

    Of several that fit, the one of most draws, then the one farthest off: none is picked for agreeing.
    """
    settings = claim.settings
    if settings.outside is not None:
        return Result(claim, Verdict.not_run, (settings.outside,))
    wanted = {settings.object} if settings.object != MEAN else settings.counts.keys()
    results = [_against(claim, setup) for setup in found if not wanted or setup.categories & wanted]
    if not results:
        how = (
            f"python run.py experiment={settings.experiment}"
            if settings.experiment
            else "no experiment of conf/ runs it yet"
        )
        return Result(claim, Verdict.not_run, (how,))

    def rank(result: Result) -> tuple[float, ...]:
        measured = result.measured
        differing = len(result.why) if result.verdict is Verdict.not_comparable else 0
        return differing, -measured.draws if measured else 0, -abs(result.difference or 0)

    return min(results, key=rank)


def _against(claim: Claim, setup: Setup) -> Result:
    settings = claim.settings
    values, gaps = _values(setup, settings)
    why = [*_differing(settings, setup), *_incomplete(settings, setup), *gaps]
    measured = estimate(values, settings.draws) if values else None
    runs = tuple(sorted({record.run_id for run in setup.draws.values() for record in run.values()}))
    if measured is None or why:
        return Result(claim, Verdict.not_comparable, tuple(why), measured, runs)
    verdict, sentence = judge(measured, claim.value, claim.std, settings.draws)
    return Result(claim, verdict, (sentence,) if sentence else (), measured, runs)


def _values(setup: Setup, settings: Settings) -> tuple[list[float], list[str]]:
    """The claim's number for every draw that has it, in percent, and what hinders the draws if none has it.

    A mean is over all classes of the whole dataset or is none.
    """
    names = sorted(settings.counts) if settings.object == MEAN else [settings.object]
    if not names:
        return [], ["classes: how many the whole dataset has is not known"]
    values, gaps = [], []
    for run in setup.draws.values():
        if missing := [name for name in names if name not in run]:
            gaps.append(f"classes: {_some(missing)} missing")
            continue
        cells = {name: _metric(run[name], settings.metric) for name in names}
        defined = [value for value in cells.values() if value is not None]
        if len(defined) == len(names):
            values.append(100 * math.fsum(defined) / len(defined))
            continue
        name = next(name for name, value in cells.items() if value is None)
        gaps.append(_gap(run[name], settings.metric))
    return values, [] if values else list(dict.fromkeys(gaps))[:1]


def _metric(record: Record, name: str) -> float | None:
    """A metric by its name, or by its place in the sections ``typing`` and ``summary``; None where there is none."""
    section, _, rest = name.partition(".")
    value = _at(getattr(record, section) or {}, rest) if section in _SECTIONS else record.metrics.get(name)
    return value if isinstance(value, (int, float)) else None


def _gap(record: Record, metric: str) -> str:
    """Why a record does not have a metric."""
    if metric in record.metrics:
        return f"metric {metric} undefined in {record.category}: {record.undefined.get(metric)}"
    akin = _AKIN.get(metric, "")
    return f"metric {akin}, not {metric}" if akin in record.metrics else f"metric {metric} missing or undefined"


def _differing(settings: Settings, setup: Setup) -> Iterator[str]:
    """What in the configuration and the weights is not the claim's. What prompts and protocols are called decides
    nothing, what they hold does."""
    config = setup.any.config
    for group, content in settings.options.items():
        found = config.get(group)
        found = found if isinstance(found, Mapping) else {}
        ignored = _NO_CONTENT.get(group, set()) if len(content) > 1 else set()
        odd = [key for key in content if key not in ignored and found.get(key, _MISSING) != content[key]]
        if odd and found.get("name") != content["name"]:
            yield f"{group} {_short(found.get('name'))}, not {content['name']}"
        elif len(odd) > 3:
            yield f"{group}: {_some(odd)} missing or different"
        else:
            yield from (f"{group}.{key} {_short(found.get(key, _MISSING))}, not {_short(content[key])}" for key in odd)
    for key, value in settings.config.items():
        if (there := _at(config, key)) != value:
            yield f"{key} {_short(there)}, not {_short(value)}"
    weights = str(setup.any.provenance.get("weights_sha256"))
    if settings.weights and weights not in settings.weights:
        yield f"weights {weights[:8]}…, not {' or '.join(f'{known[:8]}…' for known in sorted(settings.weights))}"


def _incomplete(settings: Settings, setup: Setup) -> Iterator[str]:
    """One sentence about the first class whose images are not those of the whole dataset, and how many there are."""
    found: dict[str, str] = {}
    for run in setup.draws.values():
        for category, record in run.items():
            if settings.object in {category, MEAN}:
                for key, whole in settings.counts.get(category, {}).items():
                    # Nothing looks at the training images where no reference is drawn from them.
                    if record.counts.get(key) != whole and (key != "train" or settings.k_shot):
                        found.setdefault(category, _unequal(key, record.counts.get(key), whole))
    if found:
        category, sentence = min(found.items())
        others = f" (and {len(found) - 1} more classes)" if len(found) > 1 else ""
        yield f"dataset content: {category} {sentence}{others}"


def _at(config: Mapping[str, Any], dotted: str) -> Any:
    """The value of a dotted key of a configuration; without such a key a word that is no option anywhere."""
    value: Any = config
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return _MISSING
        value = value[key]
    return value


def _unequal(key: str, found: Any, whole: Any) -> str:
    """
    >>> _unequal("defects", {"good": 20, "hole": 3}, {"good": 20, "hole": 18}), _unequal("train", 60, 209)
    ('hole 3, not 18', 'train 60, not 209')
    """
    if isinstance(found, Mapping) and isinstance(whole, Mapping):
        key = min(name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name))
        found, whole = found.get(key, 0), whole.get(key, 0)
    return f"{key} {_short(found)}, not {_short(whole)}"


def _short(value: Any) -> str:
    """A value as configuration files write it, cut where it is long.

    >>> _short([2, 3]), _short(None), _short("mean")
    ('[2, 3]', 'null', 'mean')
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _some(names: Sequence[str]) -> str:
    """
    >>> _some(["a", "b"]), _some(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
