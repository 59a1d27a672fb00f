"""A sweep through submitit's Slurm path, against stand-ins for sbatch, srun, sacct and scontrol."""

import json
import shutil
import stat
import sys
from pathlib import Path

import pytest

from tests.helpers import Outcome, arguments, command, counted_evaluations
from tests.launchers import standing
from winclip_bench import sweep
from winclip_bench.jobs import read_jobs

STAND_INS = Path(__file__).with_name("slurm.py")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the stand-ins, which are on the path."""
    state, programs = tmp_path / "state", tmp_path / "bin"
    state.mkdir()
    programs.mkdir()
    for name in ("sbatch", "srun", "sacct", "scontrol"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_INS}" {name} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("STAND_IN", str(state))
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sweep, "WAIT_SECONDS", 25.0)
    return state


def on_slurm(parts: Path, results: Path, *more: str) -> Outcome:
    settings = ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.array_parallelism=8")
    return command(*arguments(parts, results, "-m", "k_shot=0,1", "save_maps=true", *settings, *more))


def test_a_sweep_survives_what_happens_to_its_jobs(parts: Path, tmp_path: Path, slurm: Path) -> None:
    """One job of four is killed, one is preempted and queued again, one has a fault of ours; then the same command."""
    results = tmp_path / "results"
    faults = {"0": "kill", "1": "preempt", "2": "raise"}
    (slurm / "faults.json").write_text(json.dumps(faults))
    outcome = on_slurm(parts, results, "split_categories=true")
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert "2 of 4 jobs have not finished" in outcome.err
    script = (slurm / "1.job").read_text()
    for line in ("--array=0-3%4", "--partition=gpu", "--gpus-per-node=1", "--signal=USR2@120"):
        assert f"#SBATCH {line}" in script
    assert (slurm / "1_0.state").read_text() == "FAILED"
    assert (slurm / "1_2.state").read_text() == "COMPLETED", "Slurm does not know that anything went wrong"
    found, _ = read_jobs(results)
    assert sorted(one.state for one in found.values()) == ["failed", "finished", "finished", "lost"]
    (failed,) = (one for one in found.values() if one.state == "failed")
    assert failed.reasons == {"bolt": "RuntimeError: a fault of ours"}

    again = on_slurm(parts, results, "split_categories=true")
    assert again.code == 0, again.err
    assert {one.state for one in read_jobs(results)[0].values()} == {"finished"}
    assert again.out.count("| mean ") == 2
    on_the_cluster = standing.left_in(results)

    shutil.rmtree(results)
    with counted_evaluations() as evaluated:
        assert command(*arguments(parts, results, "-m", "k_shot=0,1", "save_maps=true")).code == 0
    assert len(evaluated) == 4
    assert standing.left_in(results) == on_the_cluster


def test_several_runs_in_one_job(parts: Path, tmp_path: Path, slurm: Path) -> None:
    outcome = on_slurm(parts, tmp_path / "results", "hydra.sweeper.runs_per_job=2")
    assert outcome.code == 0, outcome.err
    assert "--array" not in (slurm / "1.job").read_text()
    assert len(read_jobs(tmp_path / "results")[0]) == 2
