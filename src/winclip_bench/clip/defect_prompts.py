"""Prompts for types of defect: curated sets as data, and states made from a defect's name where there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from winclip_bench.clip.prompts import compose
from winclip_bench.errors import InputError

GOOD = "good"


@dataclass(frozen=True)
class DefectPrompts:
    """States of good, of anomalous and of each defect type, and the templates that all of them are put into.

    defects  type -> states; the types' order is that of the classes
    """

    name: str
    normal_states: tuple[str, ...]
    anomalous_states: tuple[str, ...]
    defects: Mapping[str, tuple[str, ...]]
    templates: tuple[str, ...]

    def classes(self, class_name: str) -> dict[str, list[str]]:
        """Prompts of each class, ``good`` first, then the defects in order."""
        states = {GOOD: self.normal_states, **self.defects}
        return {name: compose(class_name, of, self.templates) for name, of in states.items()}

    def sides(self, class_name: str) -> tuple[list[str], list[str]]:
        """Prompts of normal and of anomalous images, for the first of two stages."""
        return (
            compose(class_name, self.normal_states, self.templates),
            compose(class_name, self.anomalous_states, self.templates),
        )


def states_of(defect: str) -> list[str]:
    """States of a defect type made from its name, which is that of its test folder.

    A noun gets an article in one of them, a plural or an uncountable word never; what reads as a participle ("broken",
    "scratched") describes the object instead of being had by it.

    >>> states_of("bent_wire")[:3]
    ['bent wire [c]', '[c] with a bent wire', '[c] with bent wire']
    >>> states_of("scratched")
    ['scratched [c]', '[c] that is scratched', '[c] with scratched surface', '[c] with scratched defect']
    """
    words = " ".join(defect.replace("_", " ").replace("-", " ").split()).lower()
    if not words:
        raise InputError(f"the defect type {defect!r} has no name to make prompts from; rename its folder")
    last = words.split()[-1]
    if _is_participle(last):
        return [f"{words} [c]", f"[c] that is {words}", f"[c] with {words} surface", f"[c] with {words} defect"]
    if _is_plural(last) or last in _UNCOUNTABLE:
        return [f"{words} [c]", f"[c] with {words}", f"[c] showing {words}", f"[c] with {words} defect"]
    article = "an" if words[0] in "aeiou" else "a"
    return [f"{words} [c]", f"[c] with {article} {words}", f"[c] with {words}", f"[c] with {article} {words} defect"]


def from_names(
    defects: Sequence[str], normal_states: Sequence[str], anomalous_states: Sequence[str], templates: Sequence[str]
) -> DefectPrompts:
    """The set of a category without a curated one: `states_of` each defect, all else from its ordinary prompts."""
    return DefectPrompts(
        "from names",
        tuple(normal_states),
        tuple(anomalous_states),
        {defect: tuple(states_of(defect)) for defect in defects},
        tuple(templates),
    )


def from_content(content: Any, where: str) -> DefectPrompts:
    """The set that a YAML file holds, as parsed; ``where`` is the file's name, for the message.

    Raises InputError unless it has a name, lists of states in which each holds [c], defects, and templates with [s].
    """
    keys = {"name", "normal_states", "anomalous_states", "defects", "templates"}
    if not isinstance(content, dict) or content.keys() != keys:
        raise InputError(f"{where} is no set of defect prompts: it needs exactly the keys {', '.join(sorted(keys))}")
    if not isinstance(content["name"], str) or not isinstance(content["defects"], dict) or not content["defects"]:
        raise InputError(f"{where}: name must be text, and defects a mapping of at least one type to its states")
    if GOOD in content["defects"]:
        raise InputError(f"{where}: {GOOD!r} is not a defect; put its states into normal_states")
    return DefectPrompts(
        content["name"],
        _lines(content["normal_states"], "[c]", f"{where}: normal_states"),
        _lines(content["anomalous_states"], "[c]", f"{where}: anomalous_states"),
        {
            str(defect): _lines(states, "[c]", f"{where}: defects.{defect}")
            for defect, states in content["defects"].items()
        },
        _lines(content["templates"], "[s]", f"{where}: templates"),
    )


_UNCOUNTABLE = frozenset(
    ("color", "colour", "contamination", "damage", "debris", "dirt", "dust", "glue", "liquid", "oil", "rust", "wear")
)


def _is_participle(word: str) -> bool:
    return (word.endswith("ed") and word not in {"bed", "seed", "weed"}) or word in {"bent", "broken", "torn", "worn"}


def _is_plural(word: str) -> bool:
    return word in {"teeth"} or (word.endswith("s") and not word.endswith(("ss", "us", "is")))


def _lines(value: Any, mark: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(line, str) and mark in line for line in value):
        raise InputError(f"{where} must be a list of at least one text, each with {mark}")
    return tuple(value)
