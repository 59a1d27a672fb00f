"""Coverage-guided fuzzing of everything that reads files from elsewhere: `python scripts/fuzz.py record image`.

Needs atheris: pip install -e '.[fuzz]'. Without names all targets of tests/fuzz/targets.py are run, one after the
other, `--seconds` or `--runs` each. An input that a target does not keep its promise with is made smaller and kept in
tests/fuzz/corpus/<target>, where the tests replay it; the exit code is 1 where there is one. Inputs that only reached
new code are kept in .fuzz/<target>, from which the next call goes on.
"""

import argparse
import hashlib
import logging
import os
import re
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

REPOSITORY = Path(__file__).resolve().parents[1]
CORPUS = REPOSITORY / "tests" / "fuzz" / "corpus"
WORKING = REPOSITORY / ".fuzz"
LONGEST = 16_384  # bytes of an input
SLOWEST = 30  # seconds for one, on a machine that does other things too; a second is long
MEMORY = 3072  # MiB of the process; torch alone takes several hundred
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s+(\d+)")


def signature(check: Callable[[bytes], bool], content: bytes) -> str | None:
    """Where a check fails, None where it does not: the exception's type and its last place in our code."""
    try:
        check(content)
    except Exception as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if str(REPOSITORY) in frame.filename]
        return f"{type(error).__name__} in {Path(ours[-1].filename).name}, line {ours[-1].lineno}"
    return None


def smaller(check: Callable[[bytes], bool], content: bytes, tries: int = 2000) -> bytes:
    """The input without whatever it fails in the same way without."""
    wanted, step = signature(check, content), len(content) // 2
    while step and tries:
        at = 0
        while at < len(content) and tries:
            tries -= 1
            shorter = content[:at] + content[at + step :]
            if signature(check, shorter) == wanted:
                content = shorter
            else:
                at += step
        step //= 2
    return content


def _fuzz(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    import atheris  # noqa: PLC0415  (an extra; the process that starts the others does without)

    sys.path.insert(0, str(REPOSITORY))
    with atheris.instrument_imports(include=["winclip_bench", "PIL", "yaml", "tarfile", "zipfile"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415  (instrumented as it is imported)
    from tests.fuzz.mutations import mutate  # noqa: PLC0415

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    target = TARGETS[name]
    seeds = target.seeds()
    for seed in seeds:
        (WORKING / name / hashlib.sha256(seed).hexdigest()[:12]).write_bytes(seed)
    known: set[str] = set()

    def check(content: bytes) -> None:
        found = signature(target.check, content)
        if found is not None and found not in known:
            known.add(found)
            content = smaller(target.check, content)
            path = CORPUS / name / hashlib.sha256(content).hexdigest()[:12]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            print(f"FOUND {found}: {path.relative_to(REPOSITORY)}", flush=True)

    def mutated(content: bytes, longest: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.5:
            return bytes(atheris.Mutate(content, longest))
        return mutate(content, random, seeds)[:longest]

    atheris.Setup([sys.argv[0], *arguments], check, custom_mutator=mutated)
    atheris.Fuzz()


def run(name: str, seconds: int, runs: int) -> tuple[int, list[str]]:
    """Fuzz one target in a process of its own; how many inputs it was given, and a sentence per fault found."""
    working, corpus = WORKING / name, CORPUS / name
    for folder in (working, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}", f"-runs={runs}", f"-timeout={SLOWEST}", f"-rss_limit_mb={MEMORY}",
        f"-max_len={LONGEST}", "-print_final_stats=1", f"-artifact_prefix={WORKING / name}-", str(working), str(corpus),
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, __file__, "--inside", name, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    executed, faults, last = 0, [], ""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("FOUND "):
            faults.append(line.removeprefix("FOUND ").strip())
            print(f"{name}: {faults[-1]}", flush=True)
        if match := _EXECUTED.search(line):
            executed = int(match[1])
        last = line.strip() or last
    if process.wait():
        faults.append(f"ended with exit code {process.returncode} ({last}); see {WORKING.name}/{name}-*")
    if not any(corpus.iterdir()):
        corpus.rmdir()
    return executed, faults


def main() -> int:
    """Run the command; returns the exit code."""
    if sys.argv[1:2] == ["--inside"]:
        _fuzz(sys.argv[2], sys.argv[3:])
    sys.path.insert(0, str(REPOSITORY))
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415  (takes seconds)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument(
        "--runs", type=int, default=-1, help="inputs for each target; by default as many as there is time for"
    )
    options = parser.parse_args()
    if unknown := sorted(set(options.targets) - TARGETS.keys()):
        parser.error(f"there is no target {', '.join(unknown)}")
    every = []
    for name in options.targets or TARGETS:
        executed, faults = run(name, options.seconds, options.runs)
        print(f"{name}: {executed:,} inputs, {len(faults)} faults", flush=True)
        every += faults
    return int(bool(every))


if __name__ == "__main__":
    sys.exit(main())
