"""Readers keep their promise: with every input that they once did not keep it with, and with valid files damaged."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import mutate
from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
KEPT = sorted(CORPUS.glob("*/*"))
PATIENCE = 10.0  # seconds for one input; most take a millisecond
LARGEST = 200_000  # bytes of all that is kept

pytestmark = pytest.mark.filterwarnings("ignore")  # decoders warn of what is damaged


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def check(target: Target, content: bytes) -> bool:
    begun = time.monotonic()
    taken = target.check(content)
    assert time.monotonic() - begun < PATIENCE
    return taken


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_once_stays_mended(path: Path) -> None:
    check(TARGETS[path.parent.name], path.read_bytes())


def test_the_corpus_is_small_and_every_part_of_it_is_replayed() -> None:
    assert {path.parent.name for path in KEPT} <= TARGETS.keys()
    assert sum(path.stat().st_size for path in KEPT) < LARGEST
    assert all(path.is_file() for path in KEPT)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_valid_file_is_accepted(target: Target) -> None:
    """Otherwise what follows would damage what is refused anyway."""
    assert all(check(target, seed) for seed in target.seeds())


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_damaged_file_is_read_or_refused(target: Target) -> None:
    seeds = target.seeds()

    @settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(seeds), st.randoms(use_true_random=False))
    def damaged(seed: bytes, random: Random) -> None:
        check(target, mutate(seed, random, seeds))

    damaged()
