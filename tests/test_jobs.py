"""The files of sweeps and jobs: what they say of work that runs, ends, fails, dies or never begins."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import arguments, command
from winclip_bench import jobs, status
from winclip_bench.errors import InputError
from winclip_bench.jobs import Asked, AskedSweep, Job, job_key, read_jobs, read_sweep, read_sweeps, write_sweep
from winclip_bench.records import write_atomically

CONFIG: dict[str, Any] = {"dataset": {"name": "parts"}, "k_shot": 1, "runtime": {"precision": "fp32", "workers": 2}}
KEY = job_key(CONFIG)
PATIENCE = 60.0  # seconds


def finish(results: Path, *categories: str) -> None:
    """Records as far as a job's standing asks for them: they exist."""
    for name in categories:
        write_atomically(results / "records/parts/0123456789ab" / f"{name}.json", b"{}")


def begin(results: Path, *categories: str) -> Job:
    job = Job(results, KEY).__enter__()
    job.over("parts", "0123456789ab", categories)
    return job


def state(results: Path) -> str:
    ((_, standing),) = read_jobs(results)[0].items()
    return standing.state


def change(results: Path, **values: Any) -> None:
    """Rewrite some of what a job's file says."""
    (path,) = (results / "jobs").glob("*.json")
    stamp = path.stat()
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"runtime": {"precision": "fp32", "workers": 9, "device": "cuda"}}, True),
        ({"results_dir": "elsewhere", "force": True, "tracker": {"name": "wandb"}, "split_categories": True}, True),
        ({"runtime": {"precision": "bf16", "workers": 2}}, False),
        ({"k_shot": 2}, False),
        ({"dataset": {"name": "parts", "categories": ["bolt"]}}, False),
    ],
)
def test_a_job_is_named_by_what_is_asked_for_and_not_by_how(changes: dict[str, Any], same: bool) -> None:
    assert (job_key(CONFIG) == job_key(CONFIG | changes)) == same


def test_from_the_beginning_to_the_end(tmp_path: Path) -> None:
    job = begin(tmp_path, "bolt", "nut")
    finish(tmp_path, "bolt")
    ((key, standing),) = read_jobs(tmp_path)[0].items()
    assert (key, standing.state, standing.done, standing.categories) == (KEY, "running", 1, ("bolt", "nut"))
    finish(tmp_path, "nut")
    job.__exit__(None, None, None)
    assert state(tmp_path) == "finished"
    (tmp_path / "records/parts/0123456789ab/nut.json").unlink()
    assert state(tmp_path) == "missing", "the records are what counts"


@pytest.mark.parametrize(
    ("error", "found", "reason"),
    [
        (InputError("no such folder"), "failed", "no such folder"),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
        (KeyboardInterrupt(), "stopped", "stopped from outside"),
        (SystemExit(-1), "stopped", "stopped from outside"),
    ],
)
def test_what_ends_a_job_is_written_down(tmp_path: Path, error: BaseException, found: str, reason: str) -> None:
    with pytest.raises(type(error)), Job(tmp_path, KEY):
        raise error
    ((_, standing),) = read_jobs(tmp_path)[0].items()
    assert (standing.state, standing.reasons) == (found, {"": reason})


def test_a_category_that_failed_is_forgotten_when_another_job_has_finished_it(tmp_path: Path) -> None:
    job = begin(tmp_path, "bolt", "nut")
    finish(tmp_path, "nut")
    job.failed("bolt", "bolt.png is truncated")
    job.__exit__(None, None, None)
    ((_, standing),) = read_jobs(tmp_path)[0].items()
    assert (standing.state, standing.done, standing.reasons) == ("failed", 1, {"bolt": "bolt.png is truncated"})
    finish(tmp_path, "bolt")
    ((_, standing),) = read_jobs(tmp_path)[0].items()
    assert (standing.state, standing.reasons) == ("finished", {})


def test_a_process_that_dies_on_this_machine_is_lost_at_once(tmp_path: Path) -> None:
    script = "\n".join(
        [
            "import sys, time; from pathlib import Path; from winclip_bench.jobs import Job",
            f"with Job(Path(sys.argv[1]), {KEY!r}) as job:",
            "    job.over('parts', '0123456789ab', ['bolt'])",
            "    print('begun', flush=True)",
            "    time.sleep(600)",
        ]
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    assert state(tmp_path) == "running"
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    assert state(tmp_path) == "lost"
    finish(tmp_path, "bolt")
    assert state(tmp_path) == "finished", "it died after its work was done, or another one has done it"


def test_a_number_that_another_process_has_now_does_not_revive_a_job(tmp_path: Path) -> None:
    begin(tmp_path, "bolt")
    (path,) = (tmp_path / "jobs").glob("*.json")
    process = json.loads(path.read_text())["process"]
    change(tmp_path, process=process | {"started": "1"})
    assert state(tmp_path) == "lost"


@pytest.mark.parametrize(
    ("seconds", "found"), [(0, "running"), (100, "running"), (200, "lost"), (-100, "running"), (-86400, "lost")]
)
def test_on_another_machine_a_job_is_known_by_its_signs_of_life(tmp_path: Path, seconds: float, found: str) -> None:
    """Also where a clock has been put back, so that the last sign lies in the future."""
    begin(tmp_path, "bolt")
    change(tmp_path, process={"host": "node7", "where": "node7 1 2", "pid": 1, "started": "1"})
    (path,) = (tmp_path / "jobs").glob("*.json")
    last = time.time() - seconds
    os.utime(path, (last, last))
    assert state(tmp_path) == found


def test_a_job_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BEAT_SECONDS", 0.01)
    job = begin(tmp_path, "bolt")
    (path,) = (tmp_path / "jobs").glob("*.json")
    os.utime(path, (1.0, 1.0))
    deadline = time.monotonic() + PATIENCE
    while path.stat().st_mtime < 2:
        assert time.monotonic() < deadline, "no sign of life"
        time.sleep(0.01)
    job.__exit__(None, None, None)


def test_a_folder_that_refuses_costs_a_warning_and_no_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "jobs").write_text("a file")
    with Job(tmp_path, KEY) as job:
        job.over("parts", "0123456789ab", ["bolt"])
        job.failed("bolt", "not today")
    (record,) = caplog.records
    assert "will not know of this job" in record.getMessage()
    assert read_jobs(tmp_path) == ({}, [])


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path) -> None:
    sweep = AskedSweep("python run.py -m k_shot=0,1", "/here", (Asked("a", ("k_shot=0",)), Asked(None, ("b",), "no")))
    path = write_sweep(tmp_path, sweep)
    assert read_sweep(path) == sweep
    assert list(read_sweeps(tmp_path)[0].items()) == [(sweep.name, sweep)]
    assert write_sweep(tmp_path, sweep) == path


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "no object": lambda whole: b"[]",
    "another version": lambda whole: whole.replace(b'"schema": 1', b'"schema": 2'),
    "deep": lambda whole: b"[" * 100_000,
    "not text": lambda whole: b"\xff\xfe",
    "wrong types": lambda whole: json.dumps(dict.fromkeys(json.loads(whole), 7) | {"schema": 1}).encode(),
    "missing": lambda whole: b'{"schema": 1}',
}


@pytest.mark.parametrize("how", SPOILT)
def test_files_that_are_broken_are_named_and_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    begin(tmp_path, "bolt").__exit__(None, None, None)
    write_sweep(tmp_path, AskedSweep("c", "/", (Asked("a", ("k_shot=0",)),)))
    for path in (*tmp_path.glob("jobs/*.json"), *tmp_path.glob("sweeps/*.json")):
        path.write_bytes(SPOILT[how](path.read_bytes()))
    assert status.main(["--results-dir", str(tmp_path)]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all(line.startswith("warning: ") and line.endswith(": delete it") for line in told)


def test_names_that_climb_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    begin(tmp_path, "bolt").__exit__(None, None, None)
    change(tmp_path, run_id="../../..", dataset="..")
    found, (broken,) = read_jobs(tmp_path)
    assert not found
    assert "is not a usable job" in broken


def test_the_status_of_a_sweep(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One run of a sweep finishes, one fails, one is refused; what is missing is said with the command."""
    results = tmp_path / "results"
    assert status.main(["--results-dir", str(tmp_path)]) == 0
    assert "nothing has been asked for" in capsys.readouterr().out
    assert command(*arguments(parts, results, "-m", "k_shot=0,9,-1")).code == 1
    capsys.readouterr()
    assert status.main(["--results-dir", str(results)]) == 1
    out = capsys.readouterr().out
    assert "3 jobs: 1 finished, 2 failed" in out
    assert "bolt: category 'bolt' has 3 training images; set k_shot=9" in out
    assert "k_shot=-1 must be" in out
    assert "To finish: winclip-bench -m " in out
    assert status.main(["--results-dir", str(results), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    ((name, sweep),) = told["sweeps"].items()
    assert [job["state"] for job in sweep["jobs"]] == ["finished", "failed", "failed"]
    assert told["runs"] == []
    assert status.main(["--results-dir", str(results), "--forget", "nothing"]) == 1
    assert name in capsys.readouterr().err
    assert status.main(["--results-dir", str(results), "--forget", name]) == 1
    out = capsys.readouterr().out
    assert "sweep" not in out
    assert "1 job: 1 finished" in out, "what has been done stays"


def test_the_status_of_runs_alone(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    base = arguments(parts, results)
    assert command(*base, "k_shot=9").code == 1
    capsys.readouterr()
    assert status.main(["--results-dir", str(results)]) == 1
    out = capsys.readouterr().out
    assert "To finish: winclip-bench dataset=folder" in out
    assert out.rstrip().endswith("k_shot=9")
    assert command(*base).code == 0
    (tmp_path / "elsewhere").mkdir()
    assert status.main(["--results-dir", str(tmp_path / "nowhere")]) == 1
    assert "is no folder" in capsys.readouterr().err


def test_a_sweep_that_was_killed_is_told_apart_job_by_job(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some are finished, one was at work, the others had not begun; then the command that is shown finishes it."""
    results = tmp_path / "results"
    sweep = arguments(parts, results, "-m", "k_shot=0,1,2", "split_categories=true")
    script = "import sys; from winclip_bench.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *sweep], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + PATIENCE
    while not list(results.glob("records/*/*/*.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    capsys.readouterr()
    assert status.main(["--results-dir", str(results), "--json"]) == 1
    ((_, told),) = json.loads(capsys.readouterr().out)["sweeps"].items()
    states = [job["state"] for job in told["jobs"]]
    assert states[0] == "finished"
    assert states[-1] == "missing"
    assert set(states) <= {"finished", "lost", "missing"}
    assert command(*sweep).code == 0
    assert status.main(["--results-dir", str(results)]) == 0
