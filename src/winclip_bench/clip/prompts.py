"""Compositional prompts: a class name in every state, every state in every template."""

from collections.abc import Sequence


def compose(class_name: str, states: Sequence[str], templates: Sequence[str]) -> list[str]:
    """All prompts of one side, states × templates; [c] stands for the class name, [s] for the state.

    >>> compose("metal nut", ["perfect [c]", "[c] without flaw"], ["a photo of a [s]."])
    ['a photo of a perfect metal nut.', 'a photo of a metal nut without flaw.']
    """
    return [template.replace("[s]", state.replace("[c]", class_name)) for state in states for template in templates]
