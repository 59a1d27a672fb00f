"""Image-level metrics against scikit-learn, and the cases that have no answer."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.metrics import reference
from winclip_bench.metrics import SAMPLE_METRICS, sample_metrics


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from([1, 2, 4, 10**6]))
def test_equals_scikit_learn(data, levels):
    pairs = data.draw(st.lists(st.tuples(st.integers(-levels, levels), st.booleans()), min_size=2, max_size=40))
    scores, labels = np.array(pairs).T[0] / 3, np.array(pairs).T[1]
    assume(0 < labels.sum() < len(labels))
    measured = sample_metrics(scores, labels)
    wanted = reference.ranking(scores, labels)
    for name in wanted:
        assert measured.values[f"{name}_sp"] == pytest.approx(wanted[name], abs=1e-12), name
    # The threshold reaches the F1 that is claimed for it.
    predicted = scores >= measured.thresholds["f1_sp"]
    both = (predicted & (labels == 1)).sum()
    assert measured.values["f1_sp"] == pytest.approx(2 * both / (predicted.sum() + labels.sum()), abs=1e-12)
    again = sample_metrics(np.exp(scores / levels)[::-1], labels[::-1])
    assert again.values == measured.values


def test_precision_recall_areas_by_hand():
    # Ranked anomalous, normal, anomalous: precision 1 at recall 1/2, then 1/2 and 2/3.
    values = sample_metrics([3, 2, 1], [1, 0, 1]).values
    assert values["ap_sp"] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert values["aupr_sp"] == pytest.approx(1 / 2 + 1 / 2 * (1 / 2 + 2 / 3) / 2)


@pytest.mark.parametrize(("label", "reason"), [(0, "no anomalous image"), (1, "no normal image")])
def test_undefined_with_one_label_only(label, reason):
    measured = sample_metrics([0.1, 0.9], [label, label])
    assert measured.values == dict.fromkeys(SAMPLE_METRICS)
    assert measured.undefined == dict.fromkeys(SAMPLE_METRICS, reason)


def test_constant_scores():
    values = sample_metrics([0.4] * 5, [1, 1, 0, 0, 0]).values
    assert values["auroc_sp"] == 0.5
    assert values["ap_sp"] == pytest.approx(0.4)
    assert values["f1_sp"] == pytest.approx(4 / 7)


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([0.1, np.nan], [0, 1], r"scores\[1\]"),
        ([np.inf, 0.1], [0, 1], r"scores\[0\]"),
        ([], [], "no scores"),
        ([0.1, 0.2], [0, 1, 1], "shape"),
        ([0.1, 0.2], [0, 2], "0 .normal. or 1"),
        ([[0.1], [0.2]], [0, 1], "one-dimensional"),
    ],
)
def test_bad_input_is_named(scores, labels, words):
    with pytest.raises(ValueError, match=words):
        sample_metrics(scores, labels)
