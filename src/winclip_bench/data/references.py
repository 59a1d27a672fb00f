"""Which normal images the few-shot methods may look at."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from winclip_bench.data.samples import Category, Sample
from winclip_bench.errors import InputError


def draw_references(
    train: Sequence[Sample], k: int, seed: int, category: str, replacement: bool = False
) -> tuple[Sample, ...]:
    """`k` training images, as a pure function of the category's name, its training files, `k` and `seed`.

    Draws are nested: the one of k images begins with the one of k − 1. Raises `InputError` where there are no
    training images, or, without replacement, fewer than `k`.
    """
    if k < 0:
        raise InputError(f"k_shot={k} is negative; set it to 0 or more")
    if k == 0:
        return ()
    if not train:
        raise InputError(
            f"category {category!r} has no training images, and k_shot={k} needs some; "
            f"add normal images to its train folder, name some with references.file, or set k_shot=0"
        )
    if k > len(train) and not replacement:
        raise InputError(f"category {category!r} has {len(train)} training images; set k_shot={k} to at most that")

    purpose = f"references of {category} with seed {seed}"
    # Of random.Random only random() promises the same numbers in every version of Python.
    generator = random.Random(int.from_bytes(hashlib.sha256(purpose.encode("utf-8", "surrogateescape")).digest()))
    candidates = sorted(train, key=lambda sample: sample.key)
    if replacement:
        return tuple(candidates[int(generator.random() * len(candidates))] for _ in range(k))
    return tuple(sorted(candidates, key=lambda _: generator.random())[:k])


def read_reference_file(path: Path, category: Category) -> tuple[Path, ...]:
    """The images that a text file names, one path a line, in its order; blank lines and ``#`` comments are skipped.

    A path is absolute, or relative to the folder of the file or to the category's folder, tried in this order. Raises
    `InputError` with the line's number for an image that is missing or is a test image of the category.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"references.file={path} cannot be read ({error}); name a text file of image paths") from error
    bases = [path.absolute().parent, *_category_folder(category)]
    test_images = {sample.image.resolve() for sample in category.test}
    references = []
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        found = next((base / entry for base in bases if (base / entry).is_file()), None)
        if found is None:
            looked = " or ".join(str(base) for base in bases)
            raise InputError(
                f"{path}, line {number}: there is no image {entry!r} (looked in {looked}); correct the path"
            )
        if found.resolve() in test_images:
            raise InputError(
                f"{path}, line {number}: {entry!r} is a test image of {category.name!r}; name another image"
            )
        references.append(found)
    if not references:
        raise InputError(f"references.file={path} names no image; write one path a line")
    return tuple(references)


def _category_folder(category: Category) -> list[Path]:
    """The folder that keys are relative to, as far as there is a sample to tell it from."""
    return [
        sample.image.parents[len(PurePosixPath(sample.key).parts) - 1] for sample in (*category.train, *category.test)
    ][:1]
