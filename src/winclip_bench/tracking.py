"""A copy of finished runs on Weights & Biases, for those who follow their work there.

W&B is only ever shown what is already on disk. Its client works in a process of its own, with a time limit: whatever
goes wrong with it (absent, no key, no network, hanging, crashing) costs one warning and a bounded delay, and never
touches a result, an exit code or the terminal.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Literal

from PIL import Image

from winclip_bench import pictures
from winclip_bench.errors import InputError, printable
from winclip_bench.records import Record, record_path, scores_path
from winclip_bench.report.tables import COLUMNS, METRICS, Table

CONNECT_SECONDS = 10.0  # for reaching the server
SECONDS = 30.0  # for one mirror altogether
IMAGES = 24  # overlays of one run, at most
_LONGEST_LINE = 4096  # bytes, of what W&B has to say
_OPACITY = 0.5  # of the map over its image
_LINKS = ("weights_sha256", "dataset_digest")  # of the provenance

log = logging.getLogger(__name__)
# Once online did not work, the other runs of this process do not wait for it again.
_online_failed = False


def track(
    records: Sequence[Record],
    content: Table,
    results_dir: Path,
    *,
    mode: Literal["auto", "online", "offline", "disabled"] = "auto",
    project: str = "winclip-bench",
    entity: str | None = None,
    group: str | None = None,
) -> str | None:
    """Mirror one run: its resolved config, the table of its classes, and the means as summary, all in 0–1; some of its
    pictures, and an artefact of its records, which names the weights, the data and the references by their hash.

    records  the run's records, already written
    content  their table
    mode     ``auto`` is online with a key (WANDB_API_KEY, netrc) and offline without; WANDB_MODE decides where set
    project  of W&B, and ``entity`` the user or team that it belongs to, by default the key's
    group    the sweep that the run is part of

    Returns where the mirror is, the address or the folder for ``wandb sync``; None without one. Raises nothing: every
    failure is one logged warning, after which an online run is mirrored offline.

    The W&B run's id is the run_id, so mirroring a run again replaces it, and earlier offline copies are deleted:
    syncing makes no doubles. Call this only where something new was recorded.
    """
    global _online_failed  # noqa: PLW0603
    wanted: str = os.environ.get("WANDB_MODE", "auto") if mode == "auto" else mode
    if wanted == "disabled" or not records:
        return None
    try:
        found = find_spec("wandb")
        if found is None or found.origin is None:  # without origin: only a folder of that name, such as W&B's own
            log.warning('W&B is not installed, nothing is mirrored: pip install "winclip-bench[wandb]"')
            return None
        payload = _payload(records, content, Path(results_dir)) | {
            "mode": "offline" if _online_failed else wanted,
            "project": project,
            "entity": entity,
            "group": group,
        }
        try:
            where = _in_child(payload)
        except _Failure as error:
            if payload["mode"] == "offline":
                raise
            _online_failed = True
            try:
                where = _in_child(payload | {"mode": "offline"})
            except _Failure as again:
                raise _Failure(f"{error}; offline: {again}") from again
            log.warning("W&B is not reached, mirroring offline for the rest of this process: %s", error)
        _delete_older_copies(Path(payload["dir"]) / "wandb", content.run_id, keep=Path(where).name)
        return where
    except Exception as error:  # a mirror is not worth a result
        log.warning("W&B failed, run %s is not mirrored: %s", content.run_id, _one_line(str(error)))
        return None


class _Failure(Exception):
    """What the child process had to say before it failed, or that it took too long."""


def _delete_older_copies(folder: Path, run_id: str, *, keep: str) -> None:
    """Offline copies of a run that a newer mirror, there or online, has replaced."""
    for path in folder.glob(f"offline-run-*-{run_id}"):
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True)


def _payload(records: Sequence[Record], content: Table, results_dir: Path) -> dict[str, Any]:
    return {
        "init_timeout": CONNECT_SECONDS,
        "dir": str(results_dir.resolve()),
        "id": content.run_id,
        "name": content.slug,
        "job_type": records[0].dataset,
        "config": dict(records[0].config),
        "images": _images(records, results_dir),
        "files": [
            str(path(results_dir, record.dataset, record.run_id, record.category))
            for record in records
            for path in (record_path, scores_path)
        ],
        "links": {key: records[0].provenance.get(key) for key in _LINKS}
        | {
            f"reference/{one.category}/{one_of['path']}": one_of["sha256"]
            for one in records
            for one_of in one.references
        },
        "columns": COLUMNS,
        "rows": [[row.label, *row.values] for row in content.rows],
        "summary": {
            "classes": len(records),
            **{metric: v for metric, v in zip(METRICS, content.mean.values, strict=True) if v is not None},
        },
    }


def _images(records: Sequence[Record], results_dir: Path) -> list[dict[str, str]]:
    """Image, map and caption of the worst pictures of each category, at most IMAGES and as many of each."""
    found = []
    for record in records:
        try:
            shown = pictures.read(results_dir, record.run_id, record.category)
        except InputError:  # decoration: the page says so
            continue
        for number, picture in enumerate(shown.pictures[: max(1, IMAGES // len(records))] if shown else ()):
            place = (results_dir, record.run_id, record.category, number)
            image, own_map = pictures.image_path(results_dir, picture.sha256), pictures.map_path(*place, own=False)
            if picture.low is not None and image.exists() and own_map.exists():
                caption = f"{record.category} / {picture.path}: image score {picture.image_score:.4g}"
                found.append({"image": str(image), "map": str(own_map), "caption": printable(caption)})
    return found[:IMAGES]


def _in_child(payload: dict[str, Any]) -> str:
    """Let another process mirror ``payload``. Returns where; raises _Failure if it fails or is not done in time."""
    home = Path(payload["dir"]) / "wandb"
    environment = {"WANDB_DATA_DIR": str(home / "data"), "WANDB_CACHE_DIR": str(home / "cache")} | dict(os.environ)
    package = str(Path(__file__).parents[1])
    environment["WANDB_SILENT"] = "true"  # its greeting alone asks the server who we are, for up to eight seconds
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    # Files, not pipes: W&B's service may outlive the child and would hold a pipe open.
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as complaints:
        # -P: the working folder often has W&B's own folder in it, under the name of its module.
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "winclip_bench.tracking"],
            stdin=subprocess.PIPE,
            stdout=answer,
            stderr=complaints,
            env=environment,
            start_new_session=True,  # without a terminal there is nobody to prompt
        )
        try:
            child.communicate(json.dumps(payload).encode(), timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise _Failure(f"no answer within {SECONDS:g} s") from None
        finally:
            child.kill()
            child.wait()
        if child.returncode:
            raise _Failure(_last_line(complaints) or f"exit code {child.returncode}")
        if not (where := _last_line(answer)):
            raise _Failure("it ended without an answer")
        return where


def _last_line(file: BinaryIO) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE))
    lines = file.read().decode(errors="replace").strip().splitlines()
    return _one_line(lines[-1]) if lines else ""


def _one_line(text: str) -> str:
    return printable(text.strip())[:300]


def _mirror(payload: dict[str, Any]) -> str:
    """Write one W&B run, in this process. Returns its address or its folder."""
    import wandb  # noqa: PLC0415  # only here: the import is slow and hooks into the interpreter

    mode = payload["mode"]
    if mode == "auto":
        try:
            has_key = wandb.login(prompt=False, verify=False)
        except TypeError:  # clients before September 2026 cannot be told not to prompt, but tell their key
            has_key = bool(wandb.api.api_key)
        mode = "online" if has_key else "offline"
    settings = wandb.Settings(console="off", disable_git=True, disable_code=True, init_timeout=payload["init_timeout"])
    names = ("dir", "project", "entity", "id", "name", "group", "job_type", "config")
    with wandb.init(**{name: payload[name] for name in names}, mode=mode, settings=settings) as run:
        content: dict[str, Any] = {"classes": wandb.Table(columns=payload["columns"], data=payload["rows"])}
        if payload["images"]:
            content["worst"] = [
                wandb.Image(_overlay(one), caption=one["caption"], file_type="jpg") for one in payload["images"]
            ]
        run.log(content)
        run.summary.update(payload["summary"])
        artefact = wandb.Artifact(f"records-{payload['id']}", type="records", metadata=payload["links"])
        for path in map(Path, payload["files"]):
            if path.exists():
                artefact.add_file(str(path), name=path.name)
        run.log_artifact(artefact)
        where = run.url if mode == "online" else str(Path(run.dir).parent)
    return str(where)


def _overlay(paths: dict[str, str]) -> Image.Image:
    """An image with its anomaly map over it."""
    image = Image.open(paths["image"]).convert("RGB")
    colours = Image.open(paths["map"]).convert("RGB").resize(image.size, Image.Resampling.BILINEAR)
    return Image.blend(image, colours, _OPACITY)


def _main() -> None:
    """Read a payload from standard input, mirror it, and say where; or the reason for failing as one line."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what W&B prints, even at its end, is not the answer
    try:
        print(_mirror(json.load(sys.stdin)), file=answer, flush=True)
    except Exception as error:
        print((str(error).strip() or type(error).__name__).splitlines()[0], file=sys.stderr, flush=True)
        os._exit(1)  # W&B's own exit handlers would go on trying for several seconds


if __name__ == "__main__":
    _main()
