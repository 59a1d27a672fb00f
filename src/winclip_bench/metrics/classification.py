"""What predicted types of defect are worth, as the sections and scalars of a record."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from winclip_bench.metrics.labels import LABEL_METRICS, LabelMetrics, label_metrics

BINARY = ("normal", "anomalous")
TYPE_METRICS = tuple(f"{metric}_type" for metric in LABEL_METRICS)
BINARY_METRICS = tuple(f"{metric}_binary" for metric in LABEL_METRICS)


def section(found: LabelMetrics) -> dict[str, Any]:
    """Everything about predicted labels as JSON: classes, confusion, per_class, undefined, confusions.

    ``per_class`` adds ``support``, the number of images of a class; ``confusions`` is as `confusions` gives it.
    """
    support = found.confusion.sum(axis=1).tolist()
    return {
        "classes": list(found.classes),
        "confusion": found.confusion.tolist(),
        "per_class": {
            name: {**found.per_class[name], "support": count}
            for name, count in zip(found.classes, support, strict=True)
        },
        "undefined": dict(found.undefined),
        "confusions": [list(row) for row in confusions(found)],
    }


def confusions(found: LabelMetrics) -> list[tuple[str, str, int]]:
    """Actual class, predicted class and number of images of every mistake, the most frequent first.

    >>> confusions(label_metrics(["cut", "cut", "good"], ["good", "good", "cut"]))
    [('good', 'cut', 2), ('cut', 'good', 1)]
    """
    rows = [
        (actual, predicted, int(found.confusion[i, j]))
        for i, actual in enumerate(found.classes)
        for j, predicted in enumerate(found.classes)
        if i != j and found.confusion[i, j]
    ]
    return sorted(rows, key=lambda row: -row[2])


def scalars(
    found: LabelMetrics, what: str, *, undefined_is_zero: bool = False, oracle: bool = False
) -> dict[str, float | None]:
    """The means of a record's metrics: ``accuracy_<what>``, ``precision_macro_<what>``, recall and F1 likewise.

    undefined_is_zero  count the precision of a class that is never predicted, and whatever else is undefined, as 0
                       instead of leaving it out, as scikit-learn's ``zero_division=0`` and the tables made with it do
    oracle             the labels were decided with a threshold from test labels: names begin with ``oracle_``

    >>> found = label_metrics(["good", "good"], ["good", "cut"])
    >>> [scalars(found, "type", undefined_is_zero=zero)["precision_macro_type"] for zero in (False, True)]
    [0.5, 0.25]
    """
    values = dict(found.values)
    if undefined_is_zero:
        for metric in ("precision", "recall", "f1"):
            values[f"{metric}_macro"] = float(np.mean([of[metric] or 0.0 for of in found.per_class.values()]))
    prefix = "oracle_" if oracle else ""
    return {f"{prefix}{metric}_{what}": values[metric] for metric in LABEL_METRICS}


def binary_metrics(anomalous: Sequence[bool] | NDArray[Any], labels: Sequence[int] | NDArray[Any]) -> LabelMetrics:
    """Label metrics of decisions [n] against labels [n], 1 for anomalous; the classes are `BINARY`.

    >>> binary_metrics([True, False, True], [1, 1, 0]).confusion.tolist()
    [[0, 1], [1, 1]]
    """
    predicted, actual = ([BINARY[int(value)] for value in side] for side in (anomalous, labels))
    return label_metrics(predicted, actual, BINARY)


def summary(
    anomalous: Sequence[bool] | NDArray[Any],
    labels: Sequence[int] | NDArray[Any],
    scores: Mapping[str, Sequence[float] | NDArray[Any]],
) -> dict[str, Any]:
    """The metrics JSON of the embedding baselines, in the shape of the original's.

    scores  name -> one number per image, such as ``anomaly_score``, ``normal_similarity`` and ``anomaly_similarity``

    ``total``, ``correct``, ``accuracy``; ``normal`` and ``anomaly`` with ``total``, ``correct``, ``incorrect`` and
    ``accuracy``; ``precision``, ``recall`` and ``f1`` of anomaly; ``average_scores`` by label. What has no images to be
    over, 0 in the original, is None. Raises ValueError without images or on different lengths.
    """
    found = binary_metrics(anomalous, labels)
    of_anomaly = found.per_class[BINARY[1]]
    actual = np.asarray(labels).astype(bool)
    result: dict[str, Any] = {
        "total": int(found.confusion.sum()),
        "correct": int(np.trace(found.confusion)),
        "accuracy": found.values["accuracy"],
        "precision": of_anomaly["precision"],
        "recall": of_anomaly["recall"],
        "f1": of_anomaly["f1"],
        "average_scores": {},
    }
    for place, (label, side) in enumerate(zip(("normal", "anomaly"), BINARY, strict=True)):
        total, correct = int(found.confusion[place].sum()), int(found.confusion[place, place])
        result[label] = {
            "total": total,
            "correct": correct,
            "incorrect": total - correct,
            "accuracy": found.per_class[side]["recall"],
        }
        of_label = actual == bool(place)
        result["average_scores"][label] = {
            name: float(np.asarray(values, np.float64)[of_label].mean()) if total else None
            for name, values in scores.items()
        }
    return result
