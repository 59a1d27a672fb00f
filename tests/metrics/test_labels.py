"""Label metrics against scikit-learn, with undefined classes left out of the means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score

from winclip_bench.metrics import LABEL_METRICS, label_metrics

CLASSES = ["crack", "cut", "good", "hole"]


@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=30))
def test_equals_scikit_learn(pairs):
    actual, predicted = zip(*pairs, strict=True)
    found = label_metrics(predicted, actual, CLASSES)
    assert (found.confusion == confusion_matrix(actual, predicted, labels=CLASSES)).all()
    assert found.values["accuracy"] == pytest.approx(accuracy_score(actual, predicted))
    for metric, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        wanted = score(actual, predicted, labels=CLASSES, average=None, zero_division=np.nan)
        given_ = [found.per_class[name][metric] for name in CLASSES]
        assert [np.nan if value is None else value for value in given_] == pytest.approx(wanted, nan_ok=True)
        assert found.values[f"{metric}_macro"] == pytest.approx(np.nanmean(wanted))
        assert [f"{metric} of {n}" in found.undefined for n in CLASSES] == [value is None for value in given_]
    assert set(found.values) == set(LABEL_METRICS)


def test_a_class_that_is_never_predicted_has_f1_zero_and_no_precision():
    found = label_metrics(["good", "good"], ["good", "cut"])
    assert found.per_class["cut"] == {"precision": None, "recall": 0.0, "f1": 0.0}
    assert found.undefined == {"precision of cut": "never predicted"}
    assert found.values["f1_macro"] == pytest.approx((2 / 3 + 0) / 2)
    assert found.values["precision_macro"] == 0.5


@pytest.mark.parametrize(
    ("predicted", "actual", "words"),
    [([], [], "0 predicted"), (["a"], ["a", "b"], "1 predicted and 2"), (["a"], ["x"], "'x' is not one of")],
)
def test_bad_input_is_named(predicted, actual, words):
    with pytest.raises(ValueError, match=words):
        label_metrics(predicted, actual, ["a", "b"])
