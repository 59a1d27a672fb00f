"""What a sweep leaves, to be compared however it was run."""

import hashlib
from pathlib import Path

from tests.helpers import read_records, without
from winclip_bench.records import run_id


def left_in(results: Path) -> dict[str, str]:
    """A digest of every record, apart from its timing and the state of the checkout, and of every file beside them and
    of every table, by name."""
    left = {}
    for (run, category), record in read_records(results).items():
        del record["provenance"]["git"]
        left[f"{run}/{category}"] = run_id(without(record, "timing"))
    for folder in ("records", "maps", "tables"):
        for path in (results / folder).rglob("*"):
            if path.is_file() and not (folder == "records" and path.suffix == ".json"):
                left[str(path.relative_to(results))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return left
