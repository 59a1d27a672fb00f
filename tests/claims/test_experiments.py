"""The experiments of conf/ make just the records that the claims ask for."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from tests.claims.builders import CLAIMS, records_of
from tests.helpers import jobs
from winclip_bench import runner
from winclip_bench.claims.published import Claim
from winclip_bench.claims.verdicts import Verdict, compare
from winclip_bench.config import Config, as_dict
from winclip_bench.records import Record

EXPERIMENTS = sorted({claim.settings.experiment for claim in CLAIMS if claim.settings.experiment})
# By the columns of a claim, its counts and its weights.
SPOKEN_OF_OTHERWISE = {"k_shot", "dataset.name", "dataset.content", "backbone.weights"}


@cache
def configurations(experiment: str) -> list[Config]:
    return jobs(f"experiment={experiment}", "-m")


def claims_of(experiment: str) -> list[Claim]:
    """One claim for every way in which those of an experiment were obtained."""
    found = {}
    for claim in CLAIMS:
        if claim.settings.experiment == experiment:
            found.setdefault((claim.claim, claim.dataset, claim.k_shot, claim.variant), claim)
    return list(found.values())


def as_records(claim: Claim, config: Config) -> list[Record]:
    """Records of a run of a configuration that finds exactly the claimed number in every class."""
    content = as_dict(config)
    records = records_of(claim.settings, claim.value, [config.seed])
    return [replace(record, config=content) for record in records]


def leaves(content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, dict) and not prefix:
            yield from leaves(value, f"{key}.")
        else:
            yield prefix + key


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_makes_what_its_claims_can_be_compared_with(experiment: str) -> None:
    for claim in claims_of(experiment):
        settings = claim.settings
        records = [
            record
            for config in configurations(experiment)
            if (config.dataset.name, config.k_shot) == (settings.dataset, settings.k_shot)
            for record in as_records(claim, config)
        ]
        (result,) = compare([claim], records)
        assert result.verdict is Verdict.reproduced, (claim.claim, claim.variant, result.why)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_settings_speak_of_everything_that_a_number_depends_on(experiment: str) -> None:
    """A new field of the configuration is either required by the claims or could change their numbers unseen."""
    for claim in claims_of(experiment):
        settings = claim.settings
        required = {f"{group}.{key}" for group, option in settings.options.items() for key in option}
        required |= settings.config.keys() | SPOKEN_OF_OTHERWISE
        for config in configurations(experiment):
            content = runner._identity(config, "", "", {}, None)
            del content["seed"], content["precision"], content["references"]
            assert set(leaves(content)) <= required, claim.claim
        assert "runtime.precision" in required
        assert "references.file" in required or not settings.k_shot
