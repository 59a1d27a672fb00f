"""Threshold rules: promises against simulation, oracles against scikit-learn, small k by hand."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score, roc_curve

from winclip_bench.methods import thresholds


def test_fixed_calls_anomalous_what_scores_more() -> None:
    cut = thresholds.fixed(-0.2)
    assert cut.decide(torch.tensor([-0.3, -0.2, -0.1])).tolist() == [False, False, True]
    assert not cut.is_oracle
    assert cut.promised is None


@pytest.mark.parametrize(("count", "rate", "rank"), [(19, 0.05, 19), (20, 0.05, 20), (39, 0.05, 38), (4, 0.2, 4)])
def test_conformal_is_an_order_statistic(count: int, rate: float, rank: int) -> None:
    scores = torch.randperm(count, generator=torch.Generator().manual_seed(0)).double()
    assert thresholds.conformal(scores, rate).value == rank - 1


@pytest.mark.parametrize(("count", "rate", "needed"), [(1, 0.05, 19), (18, 0.05, 19), (3, 0.2, 4), (98, 0.01, 99)])
def test_too_few_references_promise_nothing(count: int, rate: float, needed: int) -> None:
    cut = thresholds.conformal(torch.linspace(0, 1, count), rate)
    assert cut.value == math.inf
    assert cut.note.endswith(f"that takes {needed}")
    assert not cut.decide(torch.tensor([1e30])).any()
    assert thresholds.conformal(torch.linspace(0, 1, needed), rate).value < math.inf
    assert json.loads(json.dumps(cut.as_dict(), allow_nan=False))["value"] is None


@pytest.mark.parametrize("draw", ["normal", "lognormal", "uniform"])
@pytest.mark.parametrize(("count", "rate"), [(9, 0.1), (25, 0.1), (4, 0.3)])
def test_conformal_keeps_its_promise_whatever_the_distribution(draw: str, count: int, rate: float) -> None:
    generator = np.random.default_rng(0)
    alarms = []
    for _ in range(2000):
        *references, image = getattr(generator, draw)(size=count + 1)
        alarms.append(bool(thresholds.conformal(torch.tensor(references), rate).decide(torch.tensor(image))))
    expected = 1 - math.ceil((1 - rate) * (count + 1)) / (count + 1)  # of continuous scores
    assert expected <= rate
    assert np.mean(alarms) == pytest.approx(expected, abs=4 * (rate / 2000) ** 0.5)


def test_intervals_say_how_the_rate_of_one_draw_scatters() -> None:
    generator = np.random.default_rng(1)
    for rule, count in ((thresholds.conformal, 30), (thresholds.normal, 5), (thresholds.normal, 30)):
        cuts = [rule(torch.tensor(generator.normal(3, 2, count)), 0.1) for _ in range(3000)]
        rates = stats.norm(3, 2).sf([cut.value for cut in cuts])
        assert len({cut.interval for cut in cuts}) == 1  # a matter of k and the rate alone
        assert np.quantile(rates, [0.05, 0.95]) == pytest.approx(cuts[0].interval, abs=0.02)
        assert rates.mean() == pytest.approx(0.1 if rule is thresholds.normal else 3 / 31, abs=0.006)


def test_normal_is_the_textbook_prediction_limit_and_moves_with_the_scores() -> None:
    scores = torch.tensor([0.1, 0.4, 0.2, 0.7], dtype=torch.float64)
    cut = thresholds.normal(scores, 0.05)
    expected = scores.mean() + stats.t.ppf(0.95, 3) * scores.std() * 1.25**0.5
    assert cut.value == pytest.approx(float(expected))
    assert cut.value > scores.max()
    moved = thresholds.normal(3 * scores - 1, 0.05)
    assert moved.value == pytest.approx(3 * cut.value - 1)
    assert moved.interval == pytest.approx(cut.interval)
    assert thresholds.normal(torch.full((4,), 0.5), 0.05).value == 0.5


def test_copies_do_not_count_as_images() -> None:
    images = torch.tensor([1.0, 2.0, 4.0])
    same = thresholds.normal(images[:, None].expand(3, 50), 0.1)
    assert same.value == pytest.approx(thresholds.normal(images, 0.1).value)
    assert thresholds.normal(images.repeat(50), 0.1).value < same.value  # what counting them would give


def test_copies_keep_the_promise_nearly() -> None:
    generator = np.random.default_rng(2)
    for between, within in ((1.0, 0.5), (0.3, 1.0)):
        rates = []
        for _ in range(200):
            scores = between * generator.normal(size=(6, 1)) + within * generator.normal(size=(6, 4))
            limit = thresholds.normal(torch.tensor(scores), 0.05).value
            rates.append(stats.norm.sf(limit / math.hypot(between, within)))
        assert np.mean(rates) == pytest.approx(0.05, abs=0.012)


def test_one_reference_is_known_to_be_too_little() -> None:
    assert thresholds.normal(torch.tensor([0.3]), 0.05).value == math.inf
    cut = thresholds.normal(torch.tensor([[0.3, 0.4, 0.5]]), 0.05)
    assert 0.5 < cut.value < math.inf
    assert cut.interval is None
    assert "expect more false alarms" in cut.note


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30))
def test_oracles_equal_scikit_learn(pairs: list[tuple[int, bool]]) -> None:
    scores, labels = torch.tensor([score / 8 for score, _ in pairs]), torch.tensor([label for _, label in pairs]).int()
    if len(labels.unique()) < 2:
        with pytest.raises(ValueError, match="both normal and anomalous"):
            thresholds.oracle_youden(scores, labels)
        return
    youden, best = thresholds.oracle_youden(scores, labels), thresholds.oracle_f1(scores, labels)
    false, true, cuts = roc_curve(labels, scores, drop_intermediate=False)
    gain = (true - false)[1:]  # scikit-learn's first point is an infinite threshold
    assert youden.value == cuts[1:][np.flatnonzero(np.isclose(gain, gain.max()))].max()
    f1 = {cut: f1_score(labels, scores >= cut) for cut in scores.unique().tolist()}
    assert f1[best.value] == pytest.approx(max(f1.values()))
    assert f1_score(labels, best.decide(scores)) == pytest.approx(max(f1.values()))


def test_rules_differ_on_the_same_scores() -> None:
    """Fixed, calibrated and oracle cuts of a score whose normal images lie far from 0."""
    references = torch.tensor([0.50, 0.52, 0.54, 0.56])
    scores, labels = torch.tensor([0.51, 0.58, 0.60, 0.90]), torch.tensor([0, 0, 1, 1])
    decisions = {
        "fixed": thresholds.fixed(0.0),
        "conformal": thresholds.conformal(references, 0.2),
        "normal": thresholds.normal(references, 0.01),
        "oracle": thresholds.oracle_youden(scores, labels),
    }
    found = {name: cut.decide(scores).int().tolist() for name, cut in decisions.items()}
    assert found == {
        "fixed": [1, 1, 1, 1], "conformal": [0, 1, 1, 1], "normal": [0, 0, 0, 1], "oracle": [0, 0, 1, 1],
    }  # fmt: skip


def test_measured_rates() -> None:
    found = thresholds.measured_rates([0, 0, 1, 3], 10)
    assert found["mean"] == 0.1
    assert 0 <= found["low"] < found["mean"] < found["high"] <= 0.3
    exact = stats.binomtest(1, 10).proportion_ci(0.9)
    assert (found["images_low"], found["images_high"]) == pytest.approx((exact.low, exact.high))
    for alarms, images in (([], 10), ([1], 0), ([11], 10), ([-1], 10)):
        with pytest.raises(ValueError, match="no false-alarm rate"):
            thresholds.measured_rates(alarms, images)


@pytest.mark.parametrize("rule", [thresholds.conformal, thresholds.normal])
def test_bad_calibration_is_refused(rule) -> None:
    for scores, rate in (([], 0.1), ([math.nan], 0.1), ([1.0], 0.0), ([1.0], 1.0)):
        with pytest.raises(ValueError, match=r"rate lies|finite"):
            rule(torch.tensor(scores), rate)
