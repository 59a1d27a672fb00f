"""A sweep on a Ray of this machine's own, with two workers, of which one is killed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers import arguments, command
from tests.launchers import standing
from winclip_bench.jobs import read_jobs

PATIENCE = 240  # seconds


def test_a_sweep_on_two_workers_of_which_one_dies(parts: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    workers = ["hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2", "hydra.launcher.ray.remote.num_cpus=1"]
    sweep = arguments(parts, results, "-m", "k_shot=0,1", "save_maps=true")
    # The first worker to write a record dies of it, once.
    deadly = tmp_path / "deadly"
    deadly.mkdir()
    (deadly / "sitecustomize.py").write_text(DEADLY)
    environment = dict(os.environ) | {
        "DEADLY_MARK": str(tmp_path / "mark"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(deadly), os.environ.get("PYTHONPATH")))),
        "RAY_AUTH_MODE": "disabled",
    }
    script = "import sys; from winclip_bench.cli import main; sys.exit(main())"
    finished = subprocess.run(
        [sys.executable, "-c", script, *sweep, *workers, "split_categories=true"],
        env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "mark").exists(), "nobody was killed"
    found, _ = read_jobs(results)
    assert [one.state for one in found.values()] == ["finished"] * 4
    on_ray = standing.left_in(results)

    shutil.rmtree(results)
    assert command(*sweep).code == 0
    assert standing.left_in(results) == on_ray


DEADLY = """
import os, sys

if "default_worker.py" in " ".join(sys.orig_argv):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "winclip_bench.runner":
                sys.meta_path.remove(self)
                from winclip_bench import records
                write = records.write
                def deadly(*given, **named):
                    try:
                        os.close(os.open(os.environ["DEADLY_MARK"], os.O_CREAT | os.O_EXCL))
                    except FileExistsError:
                        return write(*given, **named)
                    os.kill(os.getpid(), 9)
                records.write = deadly
            return None
    sys.meta_path.insert(0, Finder())
"""
