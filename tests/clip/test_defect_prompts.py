"""States from names, and curated sets read and refused."""

from typing import Any

import pytest
import yaml

from tests.helpers import REPOSITORY
from winclip_bench.clip import defect_prompts
from winclip_bench.errors import InputError

FILES = sorted((REPOSITORY / "conf" / "prompts" / "defects").glob("*.yaml"))


@pytest.mark.parametrize(
    ("defect", "state"),
    [
        ("bent_wire", "[c] with a bent wire"),
        ("oil", "[c] with oil"),
        ("Open-Seam", "[c] with an open seam"),
        ("dots", "[c] with dots"),
        ("broken_teeth", "[c] with broken teeth"),
        ("moss", "[c] with a moss"),
        ("scratched", "[c] that is scratched"),
        ("bent", "[c] that is bent"),
    ],
)
def test_states_from_names(defect: str, state: str) -> None:
    states = defect_prompts.states_of(defect)
    assert state in states
    assert len(states) == len(set(states))
    assert all("[c]" in one and "_" not in one for one in states)


def test_a_name_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="'__'"):
        defect_prompts.states_of("__")


def test_from_names_puts_good_first_and_keeps_the_order() -> None:
    made = defect_prompts.from_names(["hole", "crack"], ["perfect [c]"], ["damaged [c]"], ["a photo of a [s]."])
    classes = made.classes("metal nut")
    assert list(classes) == ["good", "hole", "crack"]
    assert classes["good"] == ["a photo of a perfect metal nut."]
    assert "a photo of a metal nut with a hole." in classes["hole"]
    assert made.sides("metal nut") == (["a photo of a perfect metal nut."], ["a photo of a damaged metal nut."])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_sets_are_good(path: Any) -> None:
    found = defect_prompts.from_content(yaml.safe_load(path.read_text()), path.name)
    assert found.name == path.stem
    for prompts in (*found.classes("hazelnut").values(), *found.sides("hazelnut")):
        assert len(prompts) == len(set(prompts))
        assert not any("[" in prompt for prompt in prompts)


def test_the_hazelnut_set_is_that_of_clip_cpe() -> None:
    path = next(path for path in FILES if path.stem == "hazelnut_clip_cpe")
    found = defect_prompts.from_content(yaml.safe_load(path.read_text()), path.name)
    assert len(found.templates) == 22
    counts = {name: len(prompts) for name, prompts in found.classes("hazelnut").items()}
    assert counts == {"good": 40 * 22, "crack": 20 * 22, "cut": 20 * 22, "hole": 21 * 22, "print": 23 * 22}
    assert len(found.sides("hazelnut")[1]) == 13 * 22
    assert "a photo of a with flaw hazelnut" in found.sides("hazelnut")[1]


GOOD: dict[str, Any] = {
    "name": "mine",
    "normal_states": ["[c]"],
    "anomalous_states": ["damaged [c]"],
    "defects": {"crack": ["cracked [c]"]},
    "templates": ["a photo of a [s]."],
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": 3}, "name must be text"),
        ({"defects": {}}, "at least one type"),
        ({"defects": {"good": ["[c]"]}}, "not a defect"),
        ({"defects": {"crack": ["cracked"]}}, "defects.crack must be"),
        ({"templates": "a photo of a [s]."}, "templates must be"),
        ({"normal_states": []}, "normal_states must be"),
        ({"extra": 1}, "exactly the keys"),
    ],
)
def test_other_sets_are_refused_by_name(change: dict[str, Any], words: str) -> None:
    assert defect_prompts.from_content(GOOD, "mine.yaml").name == "mine"
    with pytest.raises(InputError, match=words) as caught:
        defect_prompts.from_content({**GOOD, **change}, "mine.yaml")
    assert "mine.yaml" in str(caught.value)
