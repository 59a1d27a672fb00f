"""Where to cut anomaly scores: fixed, calibrated on scores of normal references alone, or an oracle.

Calibration promises a false-alarm rate α: a new normal image scores above the threshold with at most, or exactly, that
probability, over the draw of the references *and* of the image. One draw's own rate scatters around it, widely for few
references; ``Threshold.interval`` says how widely.

The references' scores must be like a new normal image's. A score that does not look at references (text alone) is so as
it stands. A score that compares with references must leave out the image that is scored; it then has one reference
fewer than new images have, and so tends to be a little higher, which errs on the side of fewer alarms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from scipy import optimize, stats
from torch import Tensor

LEVEL = 0.9  # of the intervals


@dataclass(frozen=True)
class Threshold:
    """A cut through anomaly scores, and what it promises.

    rule       ``fixed``, ``conformal``, ``normal``, ``oracle_youden`` or ``oracle_f1``
    value      the cut; infinity where no score can be called anomalous
    inclusive  whether a score that equals the cut is anomalous
    promised   the false-alarm rate that was asked for; None where none is promised
    interval   between which false-alarm rates `LEVEL` of all draws of references lie; None where that is not known
    note       what the reader must know, one sentence; empty where there is nothing
    """

    rule: str
    value: float
    inclusive: bool = False
    promised: float | None = None
    interval: tuple[float, float] | None = None
    note: str = ""

    @property
    def is_oracle(self) -> bool:
        """Whether test labels were used, so that nothing decided by it may be reported as a result."""
        return self.rule.startswith("oracle_")

    def decide(self, scores: Tensor) -> Tensor:
        """Which scores, of any shape, are anomalous: bool."""
        return scores >= self.value if self.inclusive else scores > self.value

    def as_dict(self) -> dict[str, Any]:
        """For a record: JSON has no infinity, so that is None."""
        return {
            "rule": self.rule,
            "value": self.value if math.isfinite(self.value) else None,
            "inclusive": self.inclusive,
            "promised": self.promised,
            "interval": list(self.interval) if self.interval else None,
            "note": self.note,
        }


def fixed(value: float) -> Threshold:
    """A cut known beforehand: anomalous is what scores more.

    >>> fixed(0.0).decide(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([False, False,  True])
    """
    return Threshold("fixed", float(value))


def conformal(scores: Tensor, rate: float) -> Threshold:
    """The r-th smallest of k references' scores [k], r = ⌈(1 − rate)(k + 1)⌉: a false-alarm rate of at most ``rate``.

    Assumes nothing but that the references' scores and a new normal image's are exchangeable (Vovk, Gammerman and
    Shafer, "Algorithmic Learning in a Random World", 2005; Lei et al., JASA 2018). Leave-one-out scores are so only
    nearly: for them, what is proved of a close relative is 2 × rate (Barber et al., "Predictive inference with the
    jackknife+", Annals of Statistics 2021).

    Fewer than 1 / rate − 1 references cannot bear out the promise, whatever they score: the threshold is infinite, and
    nothing is called anomalous. No augmentation changes that, copies of an image being no further images.

    The rate of one draw of references with distinct scores is distributed as Beta(k + 1 − r, r) (Wilks 1941; Vovk,
    "Conditional validity of inductive conformal predictors", 2012), which gives the interval.

    >>> conformal(torch.arange(19.0), rate=0.05).value, conformal(torch.arange(18.0), rate=0.05).value
    (18.0, inf)
    """
    ordered = _checked(scores, rate).sort().values
    count = len(ordered)
    # A hair less than the ceiling asks for, lest (1 − 0.05) · 20 be 19.000000000000004.
    rank = math.ceil((1 - rate) * (count + 1) - 1e-9)
    if rank > count:
        needed = math.ceil(1 / rate - 1 - 1e-9)
        note = f"{count} references cannot promise a false-alarm rate of {rate:g}: that takes {needed}"
        return Threshold("conformal", math.inf, promised=rate, interval=(0.0, 0.0), note=note)
    return Threshold("conformal", float(ordered[rank - 1]), promised=rate, interval=_order_rates(count, rank))


def normal(scores: Tensor, rate: float) -> Threshold:
    """The upper prediction limit for one more normally distributed score: a false-alarm rate of ``rate``.

    scores  [k] of references, or [k, a] of a augmented copies of each

    Of [k], mean + t s √(1 + 1/k), with s the sample standard deviation and t the (1 − rate) quantile of Student's t
    with k − 1 degrees of freedom: exact for normal scores, for any k from 2 (Hahn and Meeker, "Statistical Intervals",
    1991, ch. 4). It goes beyond the highest score by extrapolating a normal tail; scores with a heavier or skewed tail
    raise more alarms than promised.

    Of [k, a], copies share what is particular to their image, so their variance has two parts: s_b² of the images'
    means, and s_w² among the copies of an image. A new score varies by s_b² + (1 − 1/a) s_w², the mean by s_b² / k;
    degrees of freedom after Satterthwaite (Biometrics Bulletin 1946), so the rate is nearly ``rate``, as far as the
    copies score like unchanged images. Copies steady the second part alone.

    One image tells nothing about how images differ: with one score the threshold is infinite, and with copies of one
    image it reflects s_w² only and is too low, by an unknown amount, which its note says.

    The interval inverts the one-sided tolerance limit: one draw's limit is the z-quantile of the true distribution,
    where z has a noncentral t distribution's quantiles (Owen, "A survey of properties and applications of the
    noncentral t-distribution", Technometrics 1968).

    >>> cut = normal(torch.tensor([1.0, 2.0, 3.0]), rate=0.05)
    >>> round(cut.value, 4), round(2 + 2.919986 * (4 / 3) ** 0.5, 4)  # t with two degrees of freedom
    (5.3717, 5.3717)
    """
    table = _checked(scores, rate)
    table = table[:, None] if table.ndim == 1 else table
    images, copies = table.shape
    if images * copies == 1:
        note = "one score has no spread: give more references, or augmented copies"
        return Threshold("normal", math.inf, promised=rate, interval=(0.0, 0.0), note=note)

    within = float(table.var(1).mean()) if copies > 1 else 0.0
    if images == 1:
        limit = float(stats.t.ppf(1 - rate, copies - 1)) * math.sqrt(within * (1 + 1 / copies))
        note = "of one reference only: how normal images differ from each other is unknown, so expect more false alarms"
        return Threshold("normal", float(table.mean()) + limit, promised=rate, note=note)

    between = float(table.mean(1).var())
    parts = [(between * (1 + 1 / images), images - 1), (within * (1 - 1 / copies), images * (copies - 1))]
    variance = sum(part for part, _ in parts)
    if copies > 1 and variance > 0:
        freedom = variance**2 / sum(part**2 / df for part, df in parts if part > 0)
        of_mean = between / images / (variance - between / images)  # relative to the variance of one score
    else:
        freedom, of_mean = images - 1.0, 1 / images
    factor = float(stats.t.ppf(1 - rate, freedom)) * math.sqrt(1 + of_mean)
    value = float(table.mean()) + factor * math.sqrt(variance / (1 + of_mean))
    return Threshold("normal", value, promised=rate, interval=_rates(factor, freedom, of_mean))


def oracle_youden(scores: Tensor, labels: Tensor) -> Threshold:
    """The highest cut with the greatest true minus false-positive rate on the test labels [n] themselves.

    An oracle: nobody has these labels when a threshold is needed. Youden, "Index for rating diagnostic tests", 1950.
    Raises ValueError without both normal (0) and anomalous (1) images.

    >>> oracle_youden(torch.tensor([0.1, 0.4, 0.3, 0.9]), torch.tensor([0, 0, 1, 1])).value
    0.8999999761581421
    """
    values, true, false = _cuts(scores, labels)
    best = int((true * false[-1] - false * true[-1]).argmax())  # both rates times all pairs: whole numbers tie exactly
    return _oracle("oracle_youden", float(values[best]))


def oracle_f1(scores: Tensor, labels: Tensor) -> Threshold:
    """The highest cut with the greatest F1 = 2 TP / (2 TP + FP + FN) on the test labels [n] themselves.

    An oracle, as `oracle_youden` is. Raises ValueError without both normal (0) and anomalous (1) images.

    >>> oracle_f1(torch.tensor([0.1, 0.4, 0.3, 0.9]), torch.tensor([0, 0, 1, 1])).value
    0.30000001192092896
    """
    values, true, false = _cuts(scores, labels)
    best = int((2 * true / (true + false + true[-1])).argmax())
    return _oracle("oracle_f1", float(values[best]))


def measured_rates(alarms: Sequence[int], images: int) -> dict[str, float]:
    """What many draws of references did to the same normal test images: their false-alarm rates, 0–1.

    alarms  per draw, how many of the ``images`` were called anomalous

    Gives ``mean``, ``low`` and ``high`` (between which `LEVEL` of the draws lie), and ``images_low``, ``images_high``,
    the interval (Clopper and Pearson 1934) of a single draw with that mean rate: how far so few images can tell at all.
    Raises ValueError without draws or images, and for a count that no draw can have.

    >>> measured_rates([0, 1, 2], images=10)["mean"]
    0.1
    """
    if not alarms or images < 1 or not all(0 <= count <= images for count in alarms):
        raise ValueError(f"{len(alarms)} draws over {images} images give no false-alarm rate")
    rates = torch.tensor(alarms, dtype=torch.float64) / images
    low, high = torch.quantile(rates, torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)).tolist()
    mean = sum(alarms) / (len(alarms) * images)
    exact = stats.binomtest(round(mean * images), images).proportion_ci(LEVEL, method="exact")
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "images_low": float(exact.low),
        "images_high": float(exact.high),
    }


def _checked(scores: Tensor, rate: float) -> Tensor:
    if not 0 < rate < 1:
        raise ValueError(f"a false-alarm rate lies between 0 and 1, not at {rate}")
    if scores.numel() == 0 or not torch.isfinite(scores).all():
        raise ValueError("calibration needs at least one score, and finite ones")
    return scores.double()


@lru_cache(maxsize=1024)
def _order_rates(count: int, rank: int) -> tuple[float, float]:
    """Interval of the false-alarm rate of the rank-th smallest of ``count`` scores."""
    low, high = stats.beta(count + 1 - rank, rank).interval(LEVEL)
    return float(low), float(high)


@lru_cache(maxsize=1024)
def _rates(factor: float, freedom: float, of_mean: float) -> tuple[float, float]:
    """Interval of the false-alarm rate of mean + factor · s, s with ``freedom``, the mean's variance ``of_mean`` σ²."""
    root = math.sqrt(max(of_mean, 1e-6))  # nearly no error, where the mean has none

    def position(share: float) -> float:
        """The z that this share of the draws' limits, in standard deviations above the true mean, stays below."""
        return float(
            optimize.brentq(
                lambda z: stats.nct.sf(factor / root, freedom, z / root) - share, -40.0, 4.0 * abs(factor) + 40.0
            )
        )

    tail = (1 - LEVEL) / 2
    return float(stats.norm.sf(position(1 - tail))), float(stats.norm.sf(position(tail)))


def _cuts(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct scores, highest first, and how many anomalous and normal images score at least that."""
    anomalous = labels.bool()
    if scores.shape != labels.shape or anomalous.all() or not anomalous.any():
        raise ValueError("a threshold from test labels needs both normal and anomalous images, one label per score")
    values, place = scores.double().unique(return_inverse=True)
    true, false = (torch.bincount(place[side], minlength=len(values)).double() for side in (anomalous, ~anomalous))
    return values.flip(0), true.flip(0).cumsum(0), false.flip(0).cumsum(0)


def _oracle(rule: str, value: float) -> Threshold:
    return Threshold(rule, value, inclusive=True, note="chosen on the test labels: no result")
