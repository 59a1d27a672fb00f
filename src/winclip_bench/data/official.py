"""How many images the official releases have, and what a copy on disk lacks or has too many.

``official_counts.json`` is ``{dataset: {category: {"train/good": n, "test/<defect>": n}}}`` for MVTec AD and VisA.
"""

import json
from collections import Counter
from collections.abc import Collection
from functools import cache
from importlib import resources

from winclip_bench.data.samples import Category


@cache
def official_counts() -> dict[str, dict[str, dict[str, int]]]:
    """Dataset -> category -> ``<split>/<defect>`` -> images; only datasets whose counts are known."""
    path = resources.files("winclip_bench.data") / "official_counts.json"
    return {str(name): categories for name, categories in json.loads(path.read_text(encoding="utf-8")).items()}


def counts(category: Category) -> dict[str, int]:
    """``<split>/<defect>`` -> images of a category as it lies on disk, sorted."""
    found = Counter(f"{sample.split}/{sample.defect}" for sample in (*category.train, *category.test))
    return dict(sorted(found.items()))


def missing_categories(dataset: str, names: Collection[str]) -> list[str]:
    """The official categories of a dataset that are not among some names; none of a dataset that is not known."""
    return sorted(official_counts().get(dataset, {}).keys() - set(names))


def deviations(dataset: str, category: Category) -> tuple[list[str], bool]:
    """What differs between a category and its official counts, and whether it has fewer images of some kind.

    Nothing differs in a dataset that is not known; in one that is, a category that it does not have differs as such.
    """
    known = official_counts().get(dataset)
    if known is None:
        return [], False
    if category.name not in known:
        return [f"{category.name!r} is no category of the official {dataset}"], False
    official, found = known[category.name], counts(category)
    kinds = sorted(official.keys() | found.keys())
    differing = [kind for kind in kinds if found.get(kind, 0) != official.get(kind, 0)]
    return (
        [f"{kind} has {found.get(kind, 0)} of officially {official.get(kind, 0)} images" for kind in differing],
        any(found.get(kind, 0) < official.get(kind, 0) for kind in differing),
    )


def remarks(dataset: str, category: Category, names: Collection[str]) -> tuple[list[str], bool]:
    """Sentences for whoever reads numbers on a category, and whether category or dataset is only a part.

    names   of all categories of the dataset as it lies on disk
    """
    sentences = []
    missing = missing_categories(dataset, names)
    if missing:
        total = len(official_counts()[dataset])
        sentences.append(f"partial dataset: {len(missing)} of {total} official categories are missing")
    differing, fewer = deviations(dataset, category)
    if differing:
        kind = "partial category" if fewer else "not the official category"
        sentences.append(f"{kind}: {'; '.join(differing)}")
    return sentences, fewer or bool(missing)
