"""What every pipeline is given and what it gives back."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from winclip_bench.comparisons import Comparisons
from winclip_bench.config import Config, Method
from winclip_bench.data import (
    UNREADABLE,
    Category,
    Dataset,
    Digests,
    Sample,
    draw_references,
    file_sha256,
    read_reference_file,
    read_reference_sets,
)
from winclip_bench.encoding import Encoder, ImageFile
from winclip_bench.errors import InputError
from winclip_bench.metrics import Measured


@dataclass(frozen=True)
class Reference:
    """A reference image: its path relative to the category where it lies in it, and its digest."""

    image: Path
    path: str
    sha256: str

    @property
    def file(self) -> ImageFile:
        """The image under the digest that its features are kept by."""
        return ImageFile(self.image, self.sha256)


@dataclass(frozen=True)
class Evaluation:
    """What is the same for all categories of a run.

    listed     the references by category where a file names them, instead of a draw
    progress   told how many images of the present category were found in the store, and how many encoded
    """

    config: Config
    run_id: str
    dataset: str
    digests: Digests
    class_names: Mapping[str, str]
    encoder: Encoder
    comparisons: Comparisons
    provenance: Mapping[str, Any]
    listed: Mapping[str, Sequence[Reference]] | None = None
    progress: Callable[[int, int], None] = lambda stored, encoded: None


@dataclass(frozen=True)
class Scored:
    """What a method makes of the test images of a category, in their order.

    image_scores   higher is more anomalous
    maps           anomaly maps [H, W], or None from a method or a protocol that has none
    encoded        how many images were not in the store
    predicted      what each image is taken for, from methods that decide; empty for images they do not look at
    metrics        what the method itself measures, beside what is measured for all
    typing         as in a record
    summary        as in a record
    type_maps      names of classes and, by the key of an image, the index of one at each pixel [H, W]
    head           a trained head's file
    """

    image_scores: list[float]
    maps: list[NDArray[np.float32]] | None
    encoded: int
    predicted: list[str] | None = None
    metrics: Measured = field(default_factory=lambda: Measured({}, {}))
    typing: Mapping[str, Any] | None = None
    summary: Mapping[str, Any] | None = None
    type_maps: tuple[list[str], dict[str, NDArray[np.uint8]]] | None = None
    head: bytes | None = None


def classes_of(category: Category) -> dict[str, list[Sample]]:
    """The training images by class: by the folders of ``train``, or all as one where there is only ``good``."""
    classes: dict[str, list[Sample]] = {}
    for sample in category.train:
        classes.setdefault(PurePosixPath(sample.key).parent.name, []).append(sample)
    return classes if len(classes) > 1 else {category.name: list(category.train)}


def choose_references(run: Evaluation, category: Category) -> Sequence[Reference]:
    """The k reference images of a category, drawn or as `references.file` lists them.

    Raises InputError where there are too few, or where one has the content of a test image.
    """
    config = run.config
    if config.k_shot == 0:
        return []
    references: Sequence[Reference]
    if run.listed is not None:
        references = run.listed[category.name]
    else:
        drawn: list[Sample] = []
        for name, samples in _pools(config, category).items():
            drawn += draw_references(samples, config.k_shot, config.seed, name, config.protocol.references.value)
        references = [Reference(sample.image, sample.key, run.digests.files[sample.image]) for sample in drawn]

    test_images = {run.digests.files[sample.image]: sample.key for sample in category.test}
    for reference in references:
        if reference.sha256 in test_images and reference.sha256 != UNREADABLE:
            raise InputError(
                f"the reference {reference.path} has the same content as the test image "
                f"{test_images[reference.sha256]}; take one of them out"
            )
    return references


def _pools(config: Config, category: Category) -> dict[str, list[Sample]]:
    """What references are drawn from, k each: a category's training images, or each class's where those are learnt."""
    if config.method.name not in (Method.prototypes, Method.linear_head) or len(classes_of(category)) == 1:
        return {category.name: list(category.train)}
    return {f"{category.name}/{name}": samples for name, samples in classes_of(category).items()}


def listed_references(
    file: Path, k: int, dataset: Dataset, selected: Sequence[Category], digests: Digests
) -> dict[str, list[Reference]]:
    """The references that a file names, by category: a text file of paths for one, or a CSV of sets for many.

    A CSV gives the sets of all categories of the dataset, so that the run is the same whichever of them are selected.
    Raises InputError where the file is wrong or leaves out a selected category.
    """
    if file.suffix.lower() != ".csv":
        if len(selected) != 1:
            raise InputError(
                f"references.file={file} names the references of one category; choose it with dataset.categories=[…], "
                f"or name a CSV of sets"
            )
        return {selected[0].name: _listed_images(file, k, selected[0])}
    sets = read_reference_sets(file, dataset.name, k, dataset.categories)
    if without := [category.name for category in selected if category.name not in sets]:
        raise InputError(
            f"references.file={file} has no set of k_shot={k} images for {', '.join(without)} of {dataset.name}; "
            f"add a row, or change k_shot, dataset.categories or dataset.name"
        )
    return {
        name: [Reference(sample.image, sample.key, digests.files[sample.image]) for sample in samples]
        for name, samples in sets.items()
    }


def _listed_images(file: Path, k: int, category: Category) -> list[Reference]:
    """The first k images that a text file names. Raises InputError where it names fewer."""
    images = list(dict.fromkeys(image.resolve() for image in read_reference_file(file, category)))
    if not 0 < k <= len(images):
        raise InputError(
            f"references.file={file} names {len(images)} images; set k_shot={k} to one of 1 to {len(images)}"
        )
    keys = {sample.image.resolve(): sample.key for sample in category.train}
    return [Reference(image, keys.get(image, image.as_posix()), file_sha256(image)) for image in images[:k]]


def encode_images(run: Evaluation, category: Category, images: Sequence[ImageFile]) -> int:
    """See to it that the features of images are stored; returns how many had to be encoded."""
    config = run.config
    return run.encoder.images(
        images,
        config.scales,
        batch_size=config.runtime.batch_size,
        workers=config.runtime.workers,
        progress=run.progress,
    )


def image_files(run: Evaluation, samples: Sequence[Sample]) -> list[ImageFile]:
    """Images under the digests that their features are kept by."""
    return [ImageFile(sample.image, run.digests.files[sample.image]) for sample in samples]


@contextmanager
def timed(timing: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timing[stage] = time.perf_counter() - start
