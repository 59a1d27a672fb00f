"""Datasets as they lie on disk, as a table of samples, decoded images and masks."""

from winclip_bench.data.digests import UNREADABLE, Digests, content_digests, file_sha256
from winclip_bench.data.images import read_image
from winclip_bench.data.index import check_category, open_dataset
from winclip_bench.data.loading import prefetch
from winclip_bench.data.masks import read_mask
from winclip_bench.data.references import draw_references, read_reference_file
from winclip_bench.data.samples import GOOD, Category, Dataset, Sample

__all__ = [
    "GOOD",
    "UNREADABLE",
    "Category",
    "Dataset",
    "Digests",
    "Sample",
    "check_category",
    "content_digests",
    "draw_references",
    "file_sha256",
    "open_dataset",
    "prefetch",
    "read_image",
    "read_mask",
    "read_reference_file",
]
