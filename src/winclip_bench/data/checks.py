"""Looking at every file of a dataset before any number is made from it.

An error is what a run refuses; a warning is what a run says about its numbers, or what is probably not meant.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from statistics import median
from typing import Literal

import numpy as np
from tabulate import tabulate

from winclip_bench.data.images import MAX_PIXELS, decode, to_8_bit_rgb
from winclip_bench.data.index import category_faults
from winclip_bench.data.loading import prefetch
from winclip_bench.data.masks import anomalous_pixels, looks_soft, nearest, size_fault
from winclip_bench.data.official import deviations, missing_categories, official_counts
from winclip_bench.data.samples import Category, Dataset, Sample
from winclip_bench.errors import InputError

NO_DATA = "–"


@dataclass(frozen=True)
class Finding:
    """One sentence about a dataset, a category or a file."""

    severity: Literal["error", "warning"]
    category: str
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.category}: {self.text}" if self.category else f"{self.severity}: {self.text}"


@dataclass(frozen=True)
class Seen:
    """What is in the files of one sample; None and 0 where they cannot be read.

    mode      Pillow's name for how the image is stored
    coverage  share of anomalous pixels, None without a mask that can be used
    """

    sample: Sample
    size: tuple[int, int] | None
    mode: str
    coverage: float | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Report:
    """Everything about a dataset; `seen` in the order of its samples. `partial`: the official release has more."""

    dataset: Dataset
    seen: tuple[Seen, ...]
    findings: tuple[Finding, ...]
    partial: bool

    @property
    def errors(self) -> int:
        """How many findings make a run impossible, wholly or in one category."""
        return sum(finding.severity == "error" for finding in self.findings)


def check_dataset(
    dataset: Dataset,
    all_categories: Sequence[str],
    *,
    max_pixels: int = MAX_PIXELS,
    threshold: int | None = None,
    resize: bool = False,
    workers: int = 2,
) -> Report:
    """Read every image and mask, and compare with the official counts where they are known.

    all_categories   names of the dataset on disk, of which `dataset` may be a selection
    max_pixels, threshold, resize   as for `read_mask`
    """
    findings: list[Finding] = []
    seen: list[Seen] = []
    missing = missing_categories(dataset.name, all_categories)
    is_partial = bool(missing)
    if missing:
        total = len(official_counts()[dataset.name])
        names = ", ".join(missing)
        findings.append(
            Finding("warning", "", f"partial: {len(missing)} of {total} official categories are missing: {names}")
        )
    look = partial(_look, max_pixels=max_pixels, threshold=threshold, resize=resize)
    for category in dataset.categories:
        findings += [Finding("error", category.name, fault) for fault in category_faults(category)]
        differing, fewer = deviations(dataset.name, category)
        is_partial |= fewer
        kind = "partial: " if fewer else ""
        findings += [Finding("warning", category.name, f"{kind}{text}") for text in differing]
        findings += [Finding("warning", category.name, text) for text in _remarks(category)]
        looked = list(prefetch((*category.train, *category.test), look, workers=workers, ahead=4 * workers))
        findings += [finding for one in looked for finding in one.findings]
        seen += looked
    return Report(dataset, tuple(seen), tuple(findings), is_partial)


def to_markdown(report: Report) -> str:
    """Counts, sizes, modes and mask coverage of every kind of images, and every finding."""
    official = official_counts().get(report.dataset.name, {})
    rows = []
    for name, members in groupby(report.seen, key=lambda one: one.sample.category):
        kinds: dict[str, list[Seen]] = {}
        for one in members:
            kinds.setdefault(f"{one.sample.split}/{one.sample.defect}", []).append(one)
        expected = official.get(name, {})
        for kind in sorted(kinds.keys() | expected.keys(), key=lambda kind: (not kind.startswith("train"), kind)):
            found = kinds.get(kind, [])
            count = str(expected[kind]) if kind in expected else NO_DATA
            rows.append([name, kind, len(found), count, _sizes(found), _modes(found), _coverage(found)])
    headers = ["category", "images", "number", "official", "width×height", "modes", "mask coverage"]
    grid = tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=("left",) * 2 + ("right",) * 2)
    warnings = len(report.findings) - report.errors
    summary = f"{len(report.seen)} images, {report.errors} errors, {warnings} warnings"
    state = "; a partial copy of the official release" if report.partial else ""
    return "\n".join([grid, "", *map(str, report.findings), f"{summary}{state}"])


def _remarks(category: Category) -> Iterator[str]:
    """What a run says about a category, or about a part of it, from its list alone."""
    labels = {sample.label for sample in category.test}
    if len(labels) == 1:
        kind, lacking = ("normal", "anomalous") if labels == {0} else ("anomalous", "normal")
        yield f"all test images are {kind}; metrics that compare them with {lacking} ones are undefined"
    if not category.train:
        yield "no training images; only k_shot=0 or references.file will do"
    if not category.has_masks and category.test:
        yield "no masks; image metrics only"
    for orphan in category.orphans:
        yield f"{orphan}: a mask that belongs to no test image"
    stems = {(sample.image.parent, sample.image.stem) for sample in category.test}
    for sample in category.test:
        for mask in sample.masks:
            stem = mask.stem.removesuffix("_mask")
            if stem != sample.image.stem and (sample.image.parent, stem) in stems:
                yield f"{mask} is listed as the mask of {sample.image}, but is called like that of another image"


def _look(sample: Sample, max_pixels: int, threshold: int | None, resize: bool) -> Seen:
    """Read the files of one sample."""
    findings: list[Finding] = []
    try:
        image = decode(sample.image, max_pixels)
        to_8_bit_rgb(image, sample.image)
    except InputError as error:
        return Seen(sample, None, NO_DATA, None, (Finding("error", sample.category, str(error)),))
    if not sample.masks:
        return Seen(sample, image.size, image.mode, None, ())
    # Of a normal image the masks change no number, so that nothing about them makes a run impossible.
    severity: Literal["error", "warning"] = "error" if sample.label else "warning"
    union = np.zeros((image.height, image.width), bool)
    for path in sample.masks:
        try:
            mask = decode(path, max_pixels)
            marked = anomalous_pixels(mask, path, threshold)
        except InputError as error:
            findings.append(Finding(severity, sample.category, str(error)))
            continue
        if mask.size != image.size:
            if not resize:
                findings.append(Finding(severity, sample.category, size_fault(path, mask.size, image.size)))
                continue
            text = f"{path}: the mask has another size than its image and is resized to it"
            findings.append(Finding("warning", sample.category, text))
        union |= marked if mask.size == image.size else nearest(marked, image.size)
        if threshold is None and looks_soft(mask):
            text = f"{path}: the mask has soft edges, and all that is not 0 counts; dataset.mask_threshold sets a limit"
            findings.append(Finding("warning", sample.category, text))
    read_all = all(finding.severity == "warning" for finding in findings)
    coverage = float(union.mean()) if read_all else None
    if sample.label and coverage == 0:
        names = " and ".join(map(str, sample.masks))
        text = f"{names}: the empty mask of an anomalous image, which counts for image metrics, not for regions"
        findings.append(Finding("warning", sample.category, text))
    if not sample.label and coverage:
        text = f"{sample.masks[0]}: the mask of a good image is not empty; the image counts as normal all over"
        findings.append(Finding("warning", sample.category, text))
    return Seen(sample, image.size, image.mode, coverage, tuple(findings))


def _sizes(seen: Sequence[Seen]) -> str:
    """The most frequent size, and the range where there are several."""
    sizes = [one.size for one in seen if one.size is not None]
    if not sizes:
        return NO_DATA
    ((width, height), _), *others = Counter(sizes).most_common()
    if not others:
        return f"{width}×{height}"
    widths, heights = zip(*sizes, strict=True)
    return f"{len(others) + 1} sizes, {min(widths)}–{max(widths)}×{min(heights)}–{max(heights)}"


def _modes(seen: Sequence[Seen]) -> str:
    return ", ".join(sorted({one.mode for one in seen})) or NO_DATA


def _coverage(seen: Sequence[Seen]) -> str:
    """Median and range of the share of anomalous pixels."""
    shares = [one.coverage for one in seen if one.coverage is not None]
    if not shares:
        return NO_DATA
    return f"{median(shares):.2%} ({min(shares):.2%}–{max(shares):.2%})"
