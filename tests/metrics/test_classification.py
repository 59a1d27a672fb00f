"""Sections and scalars about types against scikit-learn, and the original's summary against its published file."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from winclip_bench.metrics import LABEL_METRICS, classification, label_metrics

CLASSES = ("good", "crack", "cut", "hole")
PAIRS = st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=30)


@settings(deadline=None)
@given(PAIRS)
def test_section_and_scalars_equal_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    actual, predicted = zip(*pairs, strict=True)
    found = label_metrics(predicted, actual, CLASSES)
    section = classification.section(found)
    json.dumps(section, allow_nan=False)
    *shares, support = precision_recall_fscore_support(actual, predicted, labels=CLASSES, zero_division=np.nan)
    for place, name in enumerate(section["classes"]):
        of_class = section["per_class"][name]
        assert of_class["support"] == support[place]
        for metric, values in zip(("precision", "recall", "f1"), shares, strict=True):
            value = np.nan if of_class[metric] is None else of_class[metric]
            assert value == pytest.approx(values[place], nan_ok=True)
    macro = precision_recall_fscore_support(actual, predicted, labels=CLASSES, average="macro", zero_division=0)
    zero = classification.scalars(found, "type", undefined_is_zero=True)
    assert list(zero.values()) == pytest.approx([accuracy_score(actual, predicted), *macro[:3]])
    left_out = classification.scalars(found, "type")
    assert left_out == {f"{metric}_type": found.values[metric] for metric in LABEL_METRICS}
    assert tuple(left_out) == classification.TYPE_METRICS


@settings(deadline=None)
@given(PAIRS)
def test_confusions_are_the_mistakes_most_frequent_first(pairs: list[tuple[str, str]]) -> None:
    actual, predicted = zip(*pairs, strict=True)
    rows = classification.confusions(label_metrics(predicted, actual, CLASSES))
    mistakes = [pair for pair in pairs if pair[0] != pair[1]]
    assert sum(count for *_, count in rows) == len(mistakes)
    assert all(mistakes.count((one, other)) == count for one, other, count in rows)
    assert [count for *_, count in rows] == sorted((count for *_, count in rows), reverse=True)


def test_a_class_never_predicted_counts_as_nothing_only_in_the_original_form() -> None:
    found = label_metrics(["good", "good", "cut"], ["good", "print", "cut"], ("good", "cut", "print"))
    assert classification.scalars(found, "type")["precision_macro_type"] == pytest.approx((0.5 + 1) / 2)
    original = classification.scalars(found, "type", undefined_is_zero=True)
    assert original["precision_macro_type"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert original["f1_macro_type"] == classification.scalars(found, "type")["f1_macro_type"]


def test_oracles_have_names_of_their_own() -> None:
    found = classification.binary_metrics([True, False], [1, 0])
    names = classification.scalars(found, "binary", oracle=True)
    assert set(names) == {f"oracle_{name}" for name in classification.BINARY_METRICS}
    assert not set(names) & set(classification.BINARY_METRICS)


def test_summary_has_the_shape_and_numbers_of_the_original() -> None:
    """Counts of the original's published file: 15 of 21 normal and 15 of 44 anomalous images right."""
    labels = [0] * 21 + [1] * 44
    anomalous = [False] * 15 + [True] * 6 + [True] * 15 + [False] * 29
    scores = np.linspace(0, 1, 65)
    found = classification.summary(anomalous, labels, {"anomaly_score": scores})
    assert found["normal"] == {
        "total": 21,
        "correct": 15,
        "incorrect": 6,
        "accuracy": pytest.approx(0.7142857142857143),
    }
    assert found["anomaly"] == {
        "total": 44, "correct": 15, "incorrect": 29, "accuracy": pytest.approx(0.3409090909090909),
    }  # fmt: skip
    for name, value in (
        ("total", 65),
        ("correct", 30),
        ("accuracy", 0.46153846153846156),
        ("precision", 0.7142857142857143),
        ("recall", 0.3409090909090909),
        ("f1", 0.4615384615384615),
    ):
        assert found[name] == pytest.approx(value)
    assert found["average_scores"]["normal"]["anomaly_score"] == pytest.approx(scores[:21].mean())
    assert found["average_scores"]["anomaly"]["anomaly_score"] == pytest.approx(scores[21:].mean())


def test_summary_says_none_where_there_are_no_images() -> None:
    found = classification.summary([False], [0], {"anomaly_score": [0.5]})
    assert found["anomaly"] == {"total": 0, "correct": 0, "incorrect": 0, "accuracy": None}
    assert found["precision"] is None
    assert found["average_scores"]["anomaly"] == {"anomaly_score": None}
    json.dumps(found, allow_nan=False)
