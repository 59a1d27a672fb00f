"""From a folder to a table of samples: every image is listed, none is read."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from winclip_bench.data.layouts import LAYOUTS
from winclip_bench.data.samples import Category, Dataset, Sample
from winclip_bench.errors import InputError


def find_root(layout: str, root: str | None, cache_dir: Path) -> tuple[str, Path]:
    """The layout and the root for `open_dataset`; of a demo the data are made in `cache_dir` unless they are there.

    Raises `InputError` where there is no root.
    """
    if layout in ("demo", "demo_pooled"):
        from winclip_bench.data import demo  # noqa: PLC0415  (drawing needs more than reading)

        if layout == "demo":
            return "mvtec", demo.write_demo(cache_dir)
        return "folder", demo.write_pooled_demo(cache_dir)
    if root is None:
        raise InputError("dataset.root is not set; set it to the folder that holds the dataset")
    return layout, Path(root)


def open_dataset(layout: str, root: Path, name: str, categories: Sequence[str] | None = None) -> Dataset:
    """Index the dataset under `root`; the result is sorted by category and key, however the file system lists.

    layout      one of `LAYOUTS`
    categories  the ones wanted; None or an empty sequence means all of them

    Raises `InputError` for what concerns the whole dataset. What is wrong within one category is left to
    `check_category`, so that it does not hinder the others.
    """
    if layout not in LAYOUTS:
        raise InputError(f"dataset.layout={layout} is not known; choose one of {', '.join(sorted(LAYOUTS))}")
    root = root.expanduser().absolute()
    if root.name == "..":  # a single category is called after its folder
        root = root.resolve()
    try:
        if not root.is_dir():
            state = "is not a folder" if root.exists() else "does not exist"
            raise InputError(f"{root} {state}; set dataset.root to the folder of the dataset {name!r}")
        found = {category.name: category for category in LAYOUTS[layout](root)}
    except OSError as error:
        raise InputError(
            f"{error.filename or root} cannot be read ({error.strerror}); give this user the right to"
        ) from error
    if not found:
        raise InputError(
            f"{root} holds no category in the layout {layout!r}; set dataset.root to the folder of the dataset {name!r}"
        )
    wanted = set(categories or found)
    unknown = sorted(wanted - found.keys())
    if unknown:
        raise InputError(
            f"dataset.categories names {', '.join(map(repr, unknown))}, which {root} does not have; "
            f"it has {', '.join(sorted(found))}"
        )
    return Dataset(
        name,
        root,
        tuple(
            replace(found[wanted_name], train=_by_key(found[wanted_name].train), test=_by_key(found[wanted_name].test))
            for wanted_name in sorted(wanted)
        ),
    )


def check_category(category: Category) -> None:
    """Raise `InputError` where a category cannot be evaluated as it is listed; no file is read.

    That is: no test images, an image listed twice, a mask that fits two images, and, in a category with masks, an
    anomalous image without any.
    """
    for fault in category_faults(category):
        raise InputError(fault)


def category_faults(category: Category) -> Iterator[str]:
    """Every sentence with which `check_category` could refuse a category."""
    if not category.test:
        yield f"category {category.name!r} has no test images; put them into its test folder or leave it out"
    seen: set[Path] = set()
    for sample in (*category.train, *category.test):
        if sample.image in seen:
            yield f"{sample.image} is listed twice in category {category.name!r}; list it once"
        seen.add(sample.image)

    owner: dict[Path, Path] = {}
    for sample in category.test if category.has_masks else ():
        if not sample.label:
            continue
        if not sample.masks:
            yield (
                f"{sample.image} is anomalous but has no mask, or several with its name; "
                f"give it exactly one or take the image out"
            )
        for mask in sample.masks:
            if mask in owner:
                yield (
                    f"{mask} is the mask of two images, {owner[mask].name} and {sample.image.name}; "
                    f"rename one of them together with a mask of its own"
                )
            owner[mask] = sample.image


def _by_key(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    return tuple(sorted(samples, key=lambda sample: sample.key))
