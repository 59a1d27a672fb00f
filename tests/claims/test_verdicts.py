"""The rule for "reproduced", and what makes a record not comparable, on constructed records."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.claims.builders import CLAIMS, claim, config_of, records_of
from winclip_bench.claims.published import Claim
from winclip_bench.claims.verdicts import (
    GRAIN,
    LEAST_DRAWS,
    WIDEST,
    Result,
    Verdict,
    compare,
    estimate,
    identity,
    judge,
    setups,
)
from winclip_bench.records import Record

ZERO_SHOT = claim("winclip_paper", "mvtec", 0, "auroc_sp")  # 91.8
FEW_SHOT = claim("winclip_paper", "mvtec", 4, "auroc_sp")  # 95.2 ± 1.3 over five draws
ONE_DRAW = claim("accurate_winclip", "mvtec", 4, "auroc_sp")  # 95.3
SUSPECT = claim("winclip_paper", "mvtec", 4, "auroc_sp", "tile")
SEEDS = range(5)
SPREAD = {0: -0.6, 1: -0.3, 2: 0.0, 3: 0.3, 4: 0.6}  # standard deviation 0.474
NARROW = {seed: points / 100 for seed, points in SPREAD.items()}
points = st.floats(0, 100)


def verdict(of: Claim, records: list[Record]) -> Result:
    (result,) = compare([of], records)
    return result


def changed(records: list[Record], **parts: Any) -> list[Record]:
    return [replace(record, **copy.deepcopy(parts)) for record in records]


def reconfigured(records: list[Record], dotted: str, value: Any) -> list[Record]:
    """Records with one value of their configuration set, or the key removed for ``...``."""
    found = []
    for record in records:
        config = copy.deepcopy(dict(record.config))
        place = config
        *groups, key = dotted.split(".")
        for group in groups:
            place = place[group]
        if value is ...:
            del place[key]
        else:
            place[key] = value
        found.append(replace(record, config=config))
    return found


# The rule for tables in which nothing is drawn.


@pytest.mark.parametrize(
    ("measured", "expected"),
    [(91.8, "reproduced"), (91.9, "reproduced"), (91.7, "reproduced"), (91.91, "above"), (91.69, "below")],
)
def test_without_a_draw_a_tenth_of_a_point_is_all_that_is_forgiven(measured: float, expected: str) -> None:
    result = verdict(ZERO_SHOT, records_of(ZERO_SHOT.settings, measured))
    assert result.verdict == expected
    assert result.difference == pytest.approx(measured - 91.8)
    assert result.measured is not None and result.measured.low is None


@given(points, points)
def test_without_a_draw_the_verdict_follows_from_the_difference_alone(ours: float, theirs: float) -> None:
    assume(abs(abs(ours - theirs) - GRAIN) > 1e-6)
    found, _ = judge(estimate([ours], None), theirs, None, None)
    assert found == ("reproduced" if abs(ours - theirs) < GRAIN else "above" if ours > theirs else "below")


# The rule for drawn references.


def test_within_both_the_claims_std_and_our_interval_is_reproduced() -> None:
    result = verdict(FEW_SHOT, records_of(FEW_SHOT.settings, 94.9, SEEDS, SPREAD))
    assert (result.verdict, result.why) == ("reproduced", ())
    assert result.measured is not None and result.measured.draws == 5
    assert result.difference == pytest.approx(-0.3)


def test_within_the_claims_std_alone_is_not() -> None:
    result = verdict(FEW_SHOT, records_of(FEW_SHOT.settings, 94.2, SEEDS, NARROW))
    assert result.verdict == "below"
    assert verdict(FEW_SHOT, records_of(FEW_SHOT.settings, 96.2, SEEDS, NARROW)).verdict == "above"


def test_within_our_interval_alone_is_not() -> None:
    wild = {seed: 10 * shift for seed, shift in SPREAD.items()}
    result = verdict(FEW_SHOT, records_of(FEW_SHOT.settings, 93.0, SEEDS, wild))
    assert result.measured is not None and result.measured.high is not None and result.measured.high > 95.2
    assert result.verdict == "below"


@pytest.mark.parametrize("seeds", [[0], [0, 1], [0, 1, 2, 3]])
def test_few_draws_decide_nothing(seeds: list[int]) -> None:
    for of in (FEW_SHOT, ONE_DRAW):
        result = verdict(of, records_of(of.settings, of.value, seeds, SPREAD))
        assert result.verdict == "not comparable"
        assert result.why == (f"draws {len(seeds)}, at least {LEAST_DRAWS} are needed",)
        assert result.measured is not None and result.difference is not None  # and still both are shown


def test_a_claim_of_one_draw_is_as_uncertain_as_one_draw() -> None:
    inside, outside = 95.3 - 1.3, 95.3 - 1.6  # the interval is ± 2.776 · 0.474 · √(1/5 + 1) = 1.44
    assert verdict(ONE_DRAW, records_of(ONE_DRAW.settings, inside, SEEDS, SPREAD)).verdict == "reproduced"
    assert verdict(ONE_DRAW, records_of(ONE_DRAW.settings, outside, SEEDS, SPREAD)).verdict == "below"


def test_a_spread_that_would_hide_a_difference_decides_nothing_but_what_lies_beyond_it() -> None:
    wide = {seed: 2 * shift for seed, shift in SPREAD.items()}  # ± 2.9
    result = verdict(ONE_DRAW, records_of(ONE_DRAW.settings, 95.3, SEEDS, wide))
    assert result.verdict == "not comparable"
    assert result.why == ("draws spread too far: ±2.9 points of the claim's would all agree",)
    assert verdict(ONE_DRAW, records_of(ONE_DRAW.settings, 92.0, SEEDS, wide)).verdict == "below"


def test_a_std_printed_as_zero_leaves_only_the_rounding() -> None:
    ours = estimate([99.8, 99.81, 99.82, 99.79, 99.83], 5)
    assert judge(ours, 99.9, 0.0, 5)[0] == "reproduced"
    assert judge(ours, 100.0, 0.0, 5)[0] == "below"


@given(st.lists(points, min_size=1, max_size=9), points, st.none() | st.floats(0, 5), st.sampled_from([None, 1, 5]))
def test_what_is_beyond_everything_never_reproduces(
    ours: list[float], theirs: float, std: float | None, claim_draws: int | None
) -> None:
    found = estimate(ours, claim_draws)
    half = (found.high - found.mean) if found.high is not None else 0.0
    assume(abs(found.mean - theirs) > max(half, std or 0.0) + GRAIN + 1e-6)
    expected = Verdict.above if found.mean > theirs else Verdict.below
    if claim_draws is not None and len(ours) < LEAST_DRAWS:
        expected = Verdict.not_comparable
    assert judge(found, theirs, std, claim_draws)[0] is expected


@given(st.lists(points, min_size=1, max_size=9), points, st.none() | st.floats(0, 5), st.sampled_from([None, 1, 5]))
def test_what_is_reproduced_is_near_by_every_measure(
    ours: list[float], theirs: float, std: float | None, claim_draws: int | None
) -> None:
    found = estimate(ours, claim_draws)
    if judge(found, theirs, std, claim_draws)[0] is not Verdict.reproduced:
        return
    away = abs(found.mean - theirs) - GRAIN - 1e-6
    if claim_draws is None:
        assert away <= 0
    else:
        assert found.draws >= LEAST_DRAWS and found.high is not None
        assert away <= found.high - found.mean
        assert away <= (WIDEST if std is None else std)


@given(st.lists(points, min_size=5, max_size=9), points, st.none() | st.floats(0, 5))
def test_above_mirrors_below(ours: list[float], theirs: float, std: float | None) -> None:
    mirror = {Verdict.above: Verdict.below, Verdict.below: Verdict.above}
    there = judge(estimate(ours, 5), theirs, std, 5)[0]
    back = judge(estimate([100 - value for value in ours], 5), 100 - theirs, std, 5)[0]
    assume(abs(np.mean(ours) - theirs) > 1e-6)
    assert back is mirror.get(there, there) or _on_the_edge(ours, theirs, std)


def _on_the_edge(ours: list[float], theirs: float, std: float | None) -> bool:
    found = estimate(ours, 5)
    assert found.high is not None
    half, away = found.high - found.mean, abs(found.mean - theirs) - GRAIN
    return any(abs(gap) < 1e-6 for gap in (half - away, (std or 0) - away, half - WIDEST))


@pytest.mark.parametrize("claim_draws", [1, 5])
def test_the_interval_holds_another_mean_as_often_as_it_says(claim_draws: int) -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        found = estimate(random.normal(90, 2, 5).tolist(), claim_draws)
        assert found.low is not None and found.high is not None
        hits += found.low <= random.normal(90, 2, claim_draws).mean() <= found.high
    assert abs(hits / 2000 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 2000)


# What is not comparable, and what it is called.


def test_without_records_nothing_has_run() -> None:
    results = compare(CLAIMS, [])
    assert {result.verdict for result in results} == {Verdict.not_run}
    assert verdict(FEW_SHOT, []).why == ("python run.py experiment=few_shot",)
    assert all(result.why and result.difference is None for result in results)


def test_another_dataset_shot_or_class_has_not_run() -> None:
    assert verdict(ZERO_SHOT, records_of(FEW_SHOT.settings, 91.8)).verdict == "not run"
    assert verdict(ZERO_SHOT, changed(records_of(ZERO_SHOT.settings, 91.8), dataset="demo")).verdict == "not run"
    cable = claim("winclip_paper", "mvtec", 0, "auroc_sp", "cable")
    assert verdict(cable, records_of(ZERO_SHOT.settings, {"bottle": 90.0})).verdict == "not run"


@pytest.mark.parametrize(
    ("dotted", "value", "sentence"),
    [
        ("protocol.temperature", 0.07, "protocol.temperature 0.07, not 0.01"),
        ("protocol.temperature", ..., "protocol.temperature missing, not 0.01"),
        ("prompts.templates", ["a [s]."], 'prompts.templates ["a [s]."], not ["a cropped photo of the [s].", "a crop…'),
        ("scales", [2], "scales [2], not [2, 3]"),
        ("runtime.precision", "bf16", "runtime.precision bf16, not fp32"),
        ("backbone.architecture", "ViT-L-14", "backbone.architecture ViT-L-14, not ViT-B-16-plus-240"),
        ("method.name", "prototypes", "method prototypes, not winclip"),
        ("dataset.class_names", {"pill": "tablet"}, 'dataset.class_names {"pill": "tablet"}, not {}'),
    ],
)
def test_a_setting_that_differs_is_named(dotted: str, value: Any, sentence: str) -> None:
    result = verdict(ZERO_SHOT, reconfigured(records_of(ZERO_SHOT.settings, 91.8), dotted, value))
    assert (result.verdict, result.why) == ("not comparable", (sentence,))


def test_another_protocol_is_called_by_its_name() -> None:
    records = reconfigured(records_of(ZERO_SHOT.settings, 91.8), "protocol.name", "accurate_winclip")
    assert verdict(ZERO_SHOT, records).verdict == "reproduced"  # what a preset is called decides nothing
    records = reconfigured(records, "protocol.temperature", 0.07)
    assert verdict(ZERO_SHOT, records).why == ("protocol accurate_winclip, not paper",)


def test_references_from_a_file_are_no_draw() -> None:
    records = records_of(FEW_SHOT.settings, 95.2, SEEDS, SPREAD)
    assert verdict(FEW_SHOT, reconfigured(records, "references.file", "refs.txt")).why == (
        "references.file refs.txt, not null",
    )


def test_weights_are_known_by_their_sha256() -> None:
    records = records_of(ZERO_SHOT.settings, 91.8)
    other = changed(records, provenance={"weights_sha256": "0123456789abcdef", "dataset_digest": "d"})
    assert verdict(ZERO_SHOT, other).why == ("weights 01234567…, not 8fb26589… or fa8eec9a…",)
    for sha256 in ZERO_SHOT.settings.weights:
        same = changed(records, provenance={"weights_sha256": sha256, "dataset_digest": "d"})
        assert verdict(ZERO_SHOT, same).verdict == "reproduced"


def test_a_part_of_a_dataset_is_not_the_dataset() -> None:
    records = records_of(ZERO_SHOT.settings, 91.8)
    counts = copy.deepcopy(dict(records[0].counts))
    counts["defects"]["good"] = 3
    records[0] = replace(records[0], counts=counts)
    assert verdict(ZERO_SHOT, records).why == ("dataset content: bottle good 3, not 20",)
    bottle, cable = (claim("winclip_paper", "mvtec", 0, "auroc_sp", name) for name in ("bottle", "cable"))
    assert verdict(bottle, records).verdict == "not comparable"
    assert verdict(cable, records).verdict == "above"  # its own images are all there
    assert verdict(ZERO_SHOT, changed(records, counts={})).why[0].endswith("(and 14 more classes)")


def test_training_images_matter_where_references_are_drawn() -> None:
    for of, expected in ((ZERO_SHOT, "reproduced"), (FEW_SHOT, "not comparable")):
        records = records_of(of.settings, of.value, SEEDS if of.k_shot else [0], SPREAD if of.k_shot else None)
        records = [replace(record, counts={**record.counts, "train": 7}) for record in records]
        assert verdict(of, records).verdict == expected


def test_a_mean_over_fewer_classes_is_no_mean() -> None:
    result = verdict(ZERO_SHOT, records_of(ZERO_SHOT.settings, 91.8)[2:])
    assert (result.verdict, result.why) == ("not comparable", ("classes: bottle, cable missing",))
    assert result.measured is None and result.difference is None


def test_a_draw_without_all_classes_does_not_count() -> None:
    records = records_of(FEW_SHOT.settings, 95.2, range(6), SPREAD)
    without = [record for record in records if (record.config["seed"], record.category) != (5, "wood")]
    result = verdict(FEW_SHOT, without)
    assert result.verdict == "reproduced" and result.measured is not None and result.measured.draws == 5
    fewer = [record for record in without if (record.config["seed"], record.category) != (4, "wood")]
    assert verdict(FEW_SHOT, fewer).why == ("draws 4, at least 5 are needed",)


def test_a_metric_that_is_not_the_claims_is_not_taken_for_it() -> None:
    of = claim("winclip_paper", "mvtec", 0, "aupr_sp")
    records = changed(records_of(of.settings, 96.5), metrics={"ap_sp": 0.965})
    assert verdict(of, records).why == ("metric ap_sp, not aupr_sp",)
    assert verdict(of, changed(records, metrics={})).why == ("metric aupr_sp missing or undefined",)
    undefined = changed(records, metrics={"aupr_sp": None}, undefined={"aupr_sp": "no anomalous image"})
    assert verdict(of, undefined).why == ("metric aupr_sp undefined in bottle: no anomalous image",)


def test_a_suspect_cell_gets_a_verdict_and_stays_marked() -> None:
    result = verdict(SUSPECT, records_of(SUSPECT.settings, 99.9, SEEDS, NARROW))
    assert (result.verdict, result.claim.suspect) == ("above", True)
    assert [other.object for other in CLAIMS if other.suspect] == ["tile"]


# Which records are compared.


def test_the_nearest_setup_is_compared() -> None:
    far = reconfigured(records_of(ZERO_SHOT.settings, 91.8), "scales", [2])
    farther = reconfigured(far, "runtime.precision", "bf16")
    assert len(verdict(ZERO_SHOT, farther + far).why) == 1
    assert verdict(ZERO_SHOT, farther + far + records_of(ZERO_SHOT.settings, 80.0)).verdict == "below"


def test_of_several_that_fit_none_is_picked_for_agreeing() -> None:
    a, b = sorted(ZERO_SHOT.settings.weights)
    near, far = (
        changed(records_of(ZERO_SHOT.settings, value), provenance={"weights_sha256": sha256, "dataset_digest": "d"})
        for value, sha256 in ((91.8, a), (90.0, b))
    )
    assert verdict(ZERO_SHOT, near + far).verdict == verdict(ZERO_SHOT, far + near).verdict == "below"


def test_runs_that_differ_by_the_draw_alone_are_one_setup() -> None:
    few = records_of(FEW_SHOT.settings, 95.2, SEEDS)
    (setup,) = setups(few)
    assert list(setup.draws) == list(SEEDS)
    assert len(setups(few + reconfigured(few, "scales", [2]))) == 2
    moved = reconfigured(reconfigured(few, "results_dir", "elsewhere"), "runtime.device", "cuda")
    assert len(setups([*few, *moved])) == 1


def test_the_order_of_records_changes_nothing() -> None:
    records = [*records_of(FEW_SHOT.settings, 95.0, SEEDS, SPREAD), *records_of(ZERO_SHOT.settings, 91.8)]
    assert compare(CLAIMS, records) == compare(CLAIMS, records[::-1])


def test_identity_leaves_out_what_no_number_depends_on() -> None:
    config = config_of(ZERO_SHOT.settings)
    kept = identity(config)
    assert {"seed", "results_dir"} & kept.keys() == set()
    assert kept["runtime"] == {"precision": "fp32"} and "name" not in kept["protocol"]
    assert kept["backbone"] == {"architecture": "ViT-B-16-plus-240"}
