"""Metrics of predicted labels, for methods that name the defect: accuracy, precision, recall, F1, confusion."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LABEL_METRICS = ("accuracy", "precision_macro", "recall_macro", "f1_macro")


@dataclass(frozen=True)
class LabelMetrics:
    """What predicted labels are worth.

    classes    names, sorted, or in the order asked for
    confusion  [actual, predicted] numbers of images, in the order of ``classes``
    values     ``accuracy``, and ``precision_macro``, ``recall_macro``, ``f1_macro``: means over the classes
               that define them
    per_class  class -> ``precision``, ``recall``, ``f1``; None where undefined
    undefined  what is None or left out of a mean, ``precision of crack``, -> its reason
    """

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    values: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    undefined: dict[str, str]


def label_metrics(
    predicted: Sequence[str], actual: Sequence[str], classes: Sequence[str] | None = None
) -> LabelMetrics:
    """Compare predicted with actual labels, one pair per image.

    classes  all that may occur; by default those that do, sorted

    Precision is undefined for a class never predicted, recall for one that never occurs, F1 = 2 TP / (2 TP + FP + FN)
    for one that does neither; each is then left out of its mean. F1 of a class that occurs and is never predicted is
    0, not undefined. Raises ValueError without images, on different lengths, or on a label outside ``classes``.

    >>> found = label_metrics(["crack", "good", "good"], ["crack", "crack", "good"])
    >>> found.values["accuracy"], found.per_class["good"]["precision"], found.confusion.tolist()
    (0.6666666666666666, 0.5, [[1, 1], [0, 1]])
    """
    if len(predicted) != len(actual) or len(actual) == 0:
        raise ValueError(f"there are {len(predicted)} predicted and {len(actual)} actual labels")
    names = tuple(classes) if classes is not None else tuple(sorted({*predicted, *actual}))
    place = {name: index for index, name in enumerate(names)}
    if outside := sorted({*predicted, *actual} - set(names)):
        raise ValueError(f"the label {outside[0]!r} is not one of the classes {', '.join(names)}")
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, ([place[name] for name in actual], [place[name] for name in predicted]), 1)

    per_class: dict[str, dict[str, float | None]] = {}
    undefined: dict[str, str] = {}
    for name, right, occurs, told in zip(
        names, np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0), strict=True
    ):
        shares = {
            "precision": (right, told, "never predicted"),
            "recall": (right, occurs, "never occurs"),
            "f1": (2 * right, occurs + told, "neither occurs nor is predicted"),
        }
        per_class[name] = {
            metric: float(part / whole) if whole else None for metric, (part, whole, _) in shares.items()
        }
        undefined |= {f"{metric} of {name}": reason for metric, (_, whole, reason) in shares.items() if not whole}

    values: dict[str, float | None] = {"accuracy": float(np.trace(confusion) / len(actual))}
    for metric in ("precision", "recall", "f1"):
        defined = [value for of in per_class.values() if (value := of[metric]) is not None]
        values[f"{metric}_macro"] = float(np.mean(defined))
    return LabelMetrics(names, confusion, values, per_class, undefined)
