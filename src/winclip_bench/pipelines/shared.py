"""What every pipeline is given and what it gives back."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from winclip_bench.comparisons import Comparisons
from winclip_bench.config import Config, ReferenceDraw
from winclip_bench.data import (
    UNREADABLE,
    Category,
    Digests,
    Sample,
    draw_references,
    file_sha256,
    read_reference_file,
)
from winclip_bench.encoding import Encoder, ImageFile
from winclip_bench.errors import InputError


@dataclass(frozen=True)
class Reference:
    """A reference image: its path relative to the category where it lies in it, and its digest."""

    image: Path
    path: str
    sha256: str


@dataclass(frozen=True)
class Evaluation:
    """What is the same for all categories of a run.

    listed     the references where a file names them, instead of a draw
    """

    config: Config
    run_id: str
    dataset: str
    digests: Digests
    class_names: Mapping[str, str]
    encoder: Encoder
    comparisons: Comparisons
    provenance: Mapping[str, Any]
    listed: list[Reference] | None = None


@dataclass(frozen=True)
class Scored:
    """What a method makes of the test images of a category, in their order.

    image_scores   higher is more anomalous
    maps           anomaly maps [H, W], or None from a method that has none
    encoded        how many images were not in the store
    """

    image_scores: list[float]
    maps: list[NDArray[np.float32]] | None
    encoded: int


def choose_references(run: Evaluation, category: Category) -> list[Reference]:
    """The k reference images of a category, drawn or as `references.file` lists them.

    Raises InputError where there are too few, or where one has the content of a test image.
    """
    config = run.config
    if config.k_shot == 0:
        return []
    if run.listed is not None:
        references = run.listed
    else:
        drawn = draw_references(
            category.train,
            config.k_shot,
            config.seed,
            category.name,
            replacement=config.protocol.references is ReferenceDraw.with_replacement,
        )
        references = [Reference(sample.image, sample.key, run.digests.files[sample.image]) for sample in drawn]

    test_images = {run.digests.files[sample.image]: sample.key for sample in category.test}
    for reference in references:
        if reference.sha256 in test_images and reference.sha256 != UNREADABLE:
            raise InputError(
                f"the reference {reference.path} has the same content as the test image "
                f"{test_images[reference.sha256]}; take one of them out"
            )
    return references


def listed_references(file: Path, k: int, category: Category) -> list[Reference]:
    """The first k images that a reference file names. Raises InputError where it names fewer."""
    images = list(dict.fromkeys(image.resolve() for image in read_reference_file(file, category)))
    if not 0 < k <= len(images):
        raise InputError(
            f"references.file={file} names {len(images)} images; set k_shot={k} to one of 1 to {len(images)}"
        )
    keys = {sample.image.resolve(): sample.key for sample in category.train}
    return [Reference(image, keys.get(image, image.as_posix()), file_sha256(image)) for image in images[:k]]


def image_files(run: Evaluation, samples: Sequence[Sample]) -> list[ImageFile]:
    """Images under the digests that their features are kept by."""
    return [ImageFile(sample.image, run.digests.files[sample.image]) for sample in samples]


@contextmanager
def timed(timing: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timing[stage] = time.perf_counter() - start
