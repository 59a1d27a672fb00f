"""Stand-ins for sbatch, srun, sacct and scontrol that run the jobs of an array on this machine, two at a time.

python slurm.py sbatch|srun|sacct|scontrol …      with STAND_IN naming a folder, which holds
    <job>_<element>.state    what sacct says of it
    <job>_<element>.again    that scontrol has asked to queue it again
    faults.json              element -> kill | preempt | raise, which then happens to it once
"""

import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(os.environ.get("STAND_IN", "."))
AT_ONCE = 2


def sbatch(script: str) -> None:
    """Answer as sbatch does, and leave a process behind that runs the job."""
    number = 1 + sum(1 for _ in FOLDER.glob("*.job"))
    (FOLDER / f"{number}.job").write_text(Path(script).read_text())
    print(f"Submitted batch job {number}")
    sys.stdout.flush()
    with (FOLDER / "queue.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, __file__, "queue", str(number)], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip


def queue(number: str) -> None:
    """Run every element of a job, again where that is asked for."""
    script = FOLDER / f"{number}.job"
    array = re.search(r"^#SBATCH --array=0-(\d+)", script.read_text(), re.MULTILINE)
    elements = [str(element) for element in range(int(array[1]) + 1)] if array else [None]

    def run(element: str | None) -> None:
        name = number if element is None else f"{number}_{element}"
        own = {"SLURM_JOB_ID": number, "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "1", "SLURM_NODEID": "0"}
        own |= {"SLURM_JOB_NODELIST": "here", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
        if element is not None:
            own |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": element}
        again = FOLDER / f"{name}.again"
        while True:
            (FOLDER / f"{name}.state").write_text("RUNNING")
            code = subprocess.run(["bash", str(script)], env={**os.environ, **own}, check=False).returncode
            if not again.exists():
                break
            again.unlink()
            (FOLDER / f"{name}.state").write_text("PENDING")
        (FOLDER / f"{name}.state").write_text("FAILED" if code else "COMPLETED")

    for element in elements:
        (FOLDER / (f"{number}.state" if element is None else f"{number}_{element}.state")).write_text("PENDING")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(run, elements))


def srun(*arguments: str) -> None:
    """Run what submitit asks for, into its files, with the fault that is planned for this element."""
    job, element = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_ARRAY_TASK_ID", "0")
    outputs = {}
    words = list(arguments)
    while words[0].startswith("--"):
        flag = words.pop(0)
        if flag in ("--output", "--error"):
            name = job if "SLURM_ARRAY_TASK_ID" not in os.environ else f"{job}_{element}"
            path = words.pop(0).replace("%A_%a", name).replace("%j", name).replace("%t", "0")
            outputs[flag] = path
    fault = FOLDER / f"{element}.fault"
    planned = FOLDER / "faults.json"
    faults = json.loads(planned.read_text()) if planned.exists() else {}
    if element in faults and not fault.exists():
        fault.touch()
        words = [words[0], __file__, "faulty", faults[element], words[-1]]
    Path(outputs["--output"]).parent.mkdir(parents=True, exist_ok=True)
    with Path(outputs["--output"]).open("ab") as out, Path(outputs["--error"]).open("ab") as err:
        sys.exit(subprocess.run(words, stdout=out, stderr=err, check=False).returncode)


def faulty(fault: str, folder: str) -> None:
    """What submitit runs in a job, but for a fault at the moment when the first record is written."""
    from submitit.core.submission import process_job  # noqa: PLC0415

    from winclip_bench import records  # noqa: PLC0415

    def write(*_: object, **__: object) -> None:
        if fault == "raise":
            raise RuntimeError("a fault of ours")
        os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGUSR2)

    records.write = write  # type: ignore[assignment]
    process_job(folder)


def sacct(*_: str) -> None:
    """What is known of all jobs."""
    print("JobID|State|NodeList")
    for path in sorted(FOLDER.glob("*.state")):
        print(f"{path.stem}|{path.read_text()}|here")


def scontrol(verb: str, name: str) -> None:
    """Queue a job again when it has ended."""
    assert verb == "requeue"
    (FOLDER / f"{name}.again").touch()


if __name__ == "__main__":
    {function.__name__: function for function in (sbatch, queue, srun, faulty, sacct, scontrol)}[sys.argv[1]](
        *sys.argv[2:]
    )
