"""KolektorSDD2: ``{train,test}/<number>.png``, each with a mask ``<number>_GT.png``; an empty mask says normal.

The labels are in the masks, so that these are read to make the index. The defective training images of the official
split are left out: references are normal.
"""

from pathlib import Path

from winclip_bench.data.images import decode
from winclip_bench.data.layouts.listing import images
from winclip_bench.data.loading import prefetch
from winclip_bench.data.masks import anomalous_pixels
from winclip_bench.data.samples import GOOD, Category, Sample, Split
from winclip_bench.errors import InputError

_MARK = "_GT"
_DEFECT = "defect"


def kolektor_sdd2(root: Path) -> list[Category]:
    """One category, called ``kolektor_sdd2``; none where there is neither a ``train`` nor a ``test`` folder.

    Raises `InputError` for an image without its mask, and for a mask that cannot be read.
    """
    train, train_orphans = _split(root, "train")
    test, orphans = _split(root, "test")
    if not train and not test:
        return []
    normal = tuple(sample for sample in train if not sample.label)
    return [Category("kolektor_sdd2", normal, tuple(test), orphans=(*train_orphans, *orphans))]


def _split(root: Path, split: Split) -> tuple[list[Sample], list[Path]]:
    """The samples of a split, and the masks that belong to none."""
    listed = images(root / split)
    masks = {path.stem: path for path in listed if _MARK in path.stem}
    pairs = {}
    for image in listed:
        if _MARK not in image.stem:
            mask = masks.pop(image.stem + _MARK, None)
            if mask is None:
                raise InputError(
                    f"{image} has no mask {image.stem}{_MARK}.png beside it, which says whether it is normal; "
                    f"restore the mask or take the image out"
                )
            pairs[image] = mask
    labels = prefetch(pairs.values(), _is_anomalous)
    samples = [
        Sample(
            image=image,
            key=f"{split}/{image.name}",
            category="kolektor_sdd2",
            split=split,
            defect=_DEFECT if anomalous else GOOD,
            masks=(mask,) if anomalous else (),
        )
        for (image, mask), anomalous in zip(pairs.items(), labels, strict=True)
    ]
    return samples, sorted(masks.values())


def _is_anomalous(mask: Path) -> bool:
    return bool(anomalous_pixels(decode(mask), mask).any())
