"""What a user sees who asks for help or mistypes."""

import re
from unittest import mock

import pytest

from tests.helpers import REPOSITORY, command
from winclip_bench import runner, usage

CONF = REPOSITORY / "conf"


def refusal(*arguments: str) -> str:
    """The one line that a command gets for an answer; no job may start."""
    with mock.patch.object(runner, "run", side_effect=AssertionError("a job has started")):
        outcome = command(*arguments)
    assert outcome.code == 1
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    return line


def test_help_fits_a_screen_and_shows_every_option_of_every_axis() -> None:
    lines = command("--help").out.strip().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    words = set(re.split(r"\s+", "\n".join(lines)))
    for path in CONF.glob("*/*.yaml"):
        assert path.stem in words, path
        assert path.parent.name in words, path


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [
        ("protocl=paper", "protocol"),
        ("dataset=mvtce", "mvtec"),
        ("method=winclp", "winclip"),
        ("backbone=vit_b_16_plus240", "vit_b_16_plus_240"),
        ("kshot=1", "k_shot"),
        ("device=cpu", "runtime.device"),
        ("runtime.batchsize=8", "runtime.batch_size"),
        ("experiment=few_shots", "few_shot"),
        ("protocol.resize=pill", "pil"),
        ("tracker.mode=ofline", "offline"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_nearest_right_one(argument: str, nearest: str) -> None:
    line = refusal(argument)
    assert line.startswith(f"error: {argument}: there is no ")
    assert line.endswith(f"; did you mean {nearest}?")


def test_what_is_near_nothing_is_answered_with_the_choice() -> None:
    assert refusal("runtime.precision=double").endswith("choose one of fp32, bf16")
    assert "demo, eva02_b_16" in refusal("backbone=resnet")
    assert refusal("zzz=1") == "error: zzz=1: there is no setting zzz; python run.py --help shows them"


def test_one_wrong_value_of_a_sweep_is_the_one_that_is_named() -> None:
    assert refusal("-m", "k_shot=0,1", "dataset=mvtec,visaa").startswith("error: dataset=visaa: ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["k_shot=0,1"], "k_shot=0,1 has several values; add -m for a run of each, or write k_shot=[0,1] for a list"),
        (["k_shot"], "k_shot has no value; write k_shot=…"),
        (["k_shot=two"], "k_shot=two is refused: Value 'two' of type 'str' could not be converted to Integer"),
        (["prompts.templates=[a b("], "prompts.templates=[a b( cannot be read; write name=value, and quote a value"),
    ],
)
def test_other_mistakes_are_one_sentence_too(arguments: list[str], sentence: str) -> None:
    assert refusal(*arguments).startswith(f"error: {sentence}")


def test_an_escape_in_a_mistyped_word_does_not_reach_the_terminal() -> None:
    assert "\x1b" not in refusal("dataset=mv\x1b[31mtec")


def test_settings_that_are_anybodys_and_null_are_no_mistakes() -> None:
    assert usage.explain("dataset.class_names.part_7", ["bolt"]) is None
    assert usage.explain("stage", ["null"]) is None
    assert usage.explain("protocol", ["gap/1_prompts"]) is None
