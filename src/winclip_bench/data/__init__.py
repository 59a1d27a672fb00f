"""Datasets as they lie on disk, as a table of samples, decoded images and masks."""

from winclip_bench.data.digests import UNREADABLE, Digests, check_unchanged, content_digests, file_sha256
from winclip_bench.data.images import MAX_PIXELS, read_image
from winclip_bench.data.index import check_category, find_root, open_dataset
from winclip_bench.data.loading import prefetch
from winclip_bench.data.masks import check_mask_sizes, read_ground_truth, read_mask
from winclip_bench.data.official import remarks
from winclip_bench.data.references import draw_references, read_reference_file, read_reference_sets
from winclip_bench.data.samples import GOOD, Category, Dataset, Sample

__all__ = [
    "GOOD",
    "MAX_PIXELS",
    "UNREADABLE",
    "Category",
    "Dataset",
    "Digests",
    "Sample",
    "check_category",
    "check_mask_sizes",
    "check_unchanged",
    "content_digests",
    "draw_references",
    "file_sha256",
    "find_root",
    "open_dataset",
    "prefetch",
    "read_ground_truth",
    "read_image",
    "read_mask",
    "read_reference_file",
    "read_reference_sets",
    "remarks",
]
