"""What every metric function returns: numbers, and a reason wherever there is no number."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measured:
    """Metrics of one category.

    values      metric -> full float in 0–1, None where the metric is undefined
    undefined   metric -> reason in a short sentence, for exactly the metrics whose value is None
    thresholds  F1 metric -> the score at and above which it was reached. Picked on the test labels: an oracle
    counts      what the numbers were computed from (images, pixels, regions)
    """

    values: Mapping[str, float | None]
    undefined: Mapping[str, str] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
