"""Sweeps: split by category, packed, written down beforehand, and the same numbers however they are run."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from omegaconf import open_dict

from tests.helpers import Outcome, arguments, command, counted_evaluations, jobs, read_records, read_table, without
from winclip_bench import evaluation, reporting, runner, sweep, tracking
from winclip_bench.config import resolve
from winclip_bench.jobs import read_jobs, read_sweeps

SWEEP = ("-m", "k_shot=0,2")


def contents(results: Path) -> dict[str, bytes]:
    """Every file that a run leaves, but for those that hold times and processes."""
    return {
        str(path.relative_to(results)): path.read_bytes()
        for folder in ("records", "maps", "tables")
        for path in sorted((results / folder).rglob("*"))
        if path.is_file() and not (folder == "records" and path.suffix == ".json")
    }


def digest_of_records(results: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The records apart from their timing."""
    return {place: without(record, "timing") for place, record in read_records(results).items()}


@pytest.fixture(scope="module")
def serial(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], dict[Any, Any]]:
    """Where a plain sweep went, and what it left there."""
    results = tmp_path_factory.mktemp("serial") / "results"
    assert command(*arguments(parts, results, *SWEEP, "save_maps=true")).code == 0
    return results, contents(results), digest_of_records(results)


@pytest.mark.parametrize(
    "how",
    [
        ["split_categories=true"],
        ["hydra.sweeper.runs_per_job=2"],
        ["split_categories=true", "hydra.sweeper.runs_per_job=3", "hydra.sweeper.max_batch_size=1"],
    ],
)
def test_however_a_sweep_is_cut_it_leaves_the_same(
    parts: Path, serial: tuple[Path, dict[str, bytes], dict[Any, Any]], how: list[str]
) -> None:
    results, files, records = serial
    shutil.rmtree(results)  # in the same place, because records keep their settings
    outcome = command(*arguments(parts, results, *SWEEP, "save_maps=true", *how))
    assert outcome.code == 0, outcome.err
    assert digest_of_records(results) == records
    assert contents(results) == files


def test_a_split_sweep_shows_each_run_once_and_whole(parts: Path, tmp_path: Path) -> None:
    outcome = command(*arguments(parts, tmp_path / "results", *SWEEP, "split_categories=true"))
    assert outcome.out.count("| mean ") == 2
    assert outcome.out.count("| bolt ") == outcome.out.count("| wood_panel ") == 2
    assert outcome.out.count("tables/overview.md") == outcome.out.count("index.html") == 1
    found, broken = read_jobs(tmp_path / "results")
    assert not broken
    assert sorted(standing.categories for standing in found.values()) == [("bolt",)] * 2 + [("wood_panel",)] * 2
    assert {standing.state for standing in found.values()} == {"finished"}


def test_the_categories_that_are_chosen_are_those_it_is_split_into(parts: Path, tmp_path: Path) -> None:
    base = arguments(parts, tmp_path / "results", "-m", "split_categories=true")
    configs = jobs(*base, "dataset.categories=[bolt]", "k_shot=0,1")
    assert [(config.dataset.categories, config.k_shot) for config in configs] == [(["bolt"], 0), (["bolt"], 1)]
    configs = jobs(*base, "k_shot=0,1")
    assert [config.dataset.categories for config in configs] == [["bolt"], ["wood_panel"]] * 2


def test_names_of_categories_that_hydra_would_read_otherwise(parts: Path, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    shutil.copytree(parts / "bolt", root / "it's, [odd]=1 ${x}")
    results = tmp_path / "results"
    assert command(*arguments(root, results, "-m", "split_categories=true", "k_shot=0,1")).code == 0
    assert {name for _, name in read_records(results)} == {"it's, [odd]=1 ${x}"}


def test_a_category_that_fails_costs_the_others_nothing(parts: Path, tmp_path: Path) -> None:
    evaluate = evaluation.evaluate

    def stumble(run: Any, category: Any) -> Any:
        if category.name == "bolt":
            raise runner.InputError("not today")
        return evaluate(run, category)

    results = tmp_path / "results"
    base = arguments(parts, results, "-m", "k_shot=0,1", "split_categories=true")
    with mock.patch.object(runner, "evaluate", stumble):
        outcome = command(*base)
    assert outcome.code == 1
    for run in {run for run, _ in read_records(results)}:
        assert set(read_table(results, run)) == {"bolt", "wood_panel", "mean (1 of 2)"}
    assert outcome.out.count("bolt has no record: not today") == 2
    with counted_evaluations() as evaluated:
        assert command(*base).code == 0
    assert evaluated == ["bolt", "bolt"]
    for run in {run for run, _ in read_records(results)}:
        assert set(read_table(results, run)) == {"bolt", "wood_panel", "mean"}


def test_a_data_folder_that_is_not_there_is_one_refusal(tmp_path: Path) -> None:
    outcome = command(*arguments(tmp_path / "nowhere", tmp_path / "results", "-m", "k_shot=0", "split_categories=true"))
    assert outcome.code == 1
    assert outcome.err.count("error: ") == 1
    assert "nowhere" in outcome.err


def test_what_is_asked_for_is_written_down_before_the_first_job(parts: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    seen: list[int] = []

    def look(config: Any, **_: Any) -> int:
        ((_, asked),) = read_sweeps(results)[0].items()
        seen.append(len(asked.jobs))
        return 0

    with mock.patch.object(runner, "run", look):
        assert command(*arguments(parts, results, "-m", "k_shot=0,1,-1")).code == 1
    assert seen == [3, 3]
    ((name, asked),) = read_sweeps(results)[0].items()
    assert name == asked.name
    assert [one.job is None for one in asked.jobs] == [False, False, True]
    assert "k_shot=-1" in str(asked.jobs[2].refused)


def test_a_sweep_over_results_folders_is_written_down_in_each(parts: Path, tmp_path: Path) -> None:
    settings = [word for word in arguments(parts, tmp_path / "a") if not word.startswith("results_dir=")]
    assert command("-m", *settings, f"results_dir={tmp_path / 'a'},{tmp_path / 'b'}", "k_shot=0,1").code == 0
    for name in "ab":
        ((_, asked),) = read_sweeps(tmp_path / name)[0].items()
        assert len(asked.jobs) == 2
        assert len(read_records(tmp_path / name)) == 4


@pytest.mark.parametrize(
    "asked",
    [
        ["experiment=few_shot"],
        ["experiment=protocol_gap"],
        ["experiment=clip_cpe"],
        ["dataset=mvtec,visa", "k_shot=0,4", "dataset.class_names.pcb1='printed board'", "protocol=paper,anomalib"],
        ["dataset=folder", "dataset={root: /x}", "+dataset.class_names.a=b", "backbone=demo", "seed=0,1"],
        ["dataset=visa", "~tracker", "scales=[2],[3]", "prompts=two_plain", 'prompts.templates=["[s]"]'],
    ],
)
def test_jobs_are_composed_as_hydra_composes_them(asked: list[str]) -> None:
    """Though it does so anew for each, and here what they have in common is read once."""
    composer = sweep.Composer.compose
    compared = 0

    def both(self: sweep.Composer, overrides: list[str]) -> Any:
        nonlocal compared
        config = composer(self, overrides)
        whole = self._loader.load_sweep_config(self._master, list(overrides))
        with open_dict(whole):
            del whole["hydra"]
        assert resolve(whole) == config
        compared += 1
        return config

    with mock.patch.object(sweep.Composer, "compose", both):
        found = jobs("-m", *asked)
    assert len(found) == compared > 1


def test_a_folder_that_cannot_be_written_to_stops_before_the_first_job(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with mock.patch.object(runner, "run", side_effect=AssertionError("a job has started")):
        outcome = command(*arguments(parts, tmp_path / "results", *SWEEP))
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert str(tmp_path / "results") in outcome.err


def in_another_process(*arguments: object) -> Outcome:
    """A command whose jobs find nothing of what the process that launched them has planned."""
    with mock.patch.dict(sweep._here.planned):
        run_jobs = sweep.run_jobs

        def elsewhere(file: str, numbers: Any, hydra_config: Any) -> list[int]:
            planned, sweep._here.planned = sweep._here.planned, {}
            try:
                return run_jobs(file, numbers, hydra_config)
            finally:
                sweep._here.planned = planned

        with mock.patch.object(sweep, "run_jobs", elsewhere):
            return command(*arguments)


def test_jobs_that_run_elsewhere_compose_what_was_planned(
    parts: Path, serial: tuple[Path, dict[str, bytes], dict[Any, Any]]
) -> None:
    results, files, records = serial
    shutil.rmtree(results)
    outcome = in_another_process(*arguments(parts, results, *SWEEP, "save_maps=true"))
    assert outcome.code == 0, outcome.err
    assert digest_of_records(results) == records
    assert contents(results) == files
    assert outcome.out.count("| mean ") == 2, "shown by the process that was asked"


def test_settings_that_have_changed_since_are_not_run(parts: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    compose = sweep.Composer.compose
    times = 0

    def changed(composer: Any, overrides: Any) -> Any:
        nonlocal times
        times += 1
        config = compose(composer, overrides)
        if times > 2:  # both have been planned
            config.scales = [3]
        return config

    with mock.patch.object(sweep.Composer, "compose", changed):
        outcome = in_another_process(*arguments(parts, results, *SWEEP))
    assert outcome.code == 1
    assert outcome.err.count("are no longer those that") == 2
    assert not read_records(results)
    found, _ = read_jobs(results)
    assert [standing.state for standing in found.values()] == ["failed", "failed"]
    assert all("are no longer those that" in standing.reasons[""] for standing in found.values())


def test_jobs_whose_results_are_not_seen_here_have_not_finished(parts: Path, tmp_path: Path) -> None:
    """A launcher says that all is well, but its machines write to a folder of their own."""
    results = tmp_path / "results"

    def lost(*_: Any, **__: Any) -> int:
        return 0

    with mock.patch.object(runner, "run", lost):
        outcome = in_another_process(*arguments(parts, results, *SWEEP))
    assert outcome.code == 1
    assert "2 of 2 jobs have not finished; python -m winclip_bench.status" in outcome.err


def test_a_launcher_that_breaks_is_one_line(parts: Path, tmp_path: Path) -> None:
    broken = "hydra._internal.core_plugins.basic_launcher.BasicLauncher.launch"
    with mock.patch(broken, side_effect=RuntimeError("no such partition\nand more")):
        outcome = command(*arguments(parts, tmp_path / "results", *SWEEP))
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert "(RuntimeError: no such partition)" in outcome.err


@pytest.mark.parametrize(("launcher", "extra"), [("submitit_slurm", "slurm"), ("ray", "ray")])
def test_a_launcher_that_is_not_installed(parts: Path, tmp_path: Path, launcher: str, extra: str) -> None:
    with mock.patch.object(sweep, "find_spec", return_value=None):
        outcome = command(*arguments(parts, tmp_path / "results", *SWEEP, f"hydra/launcher={launcher}"))
    assert outcome.code == 1
    assert outcome.err.strip() == (
        f'error: hydra/launcher={launcher} is not installed: pip install "winclip-bench[{extra}]"'
    )


def test_a_single_run_is_not_split(parts: Path, tmp_path: Path) -> None:
    outcome = command(*arguments(parts, tmp_path / "results", "split_categories=true"))
    assert outcome.code == 1
    assert outcome.err.strip() == (
        "error: split_categories=true splits the runs of a sweep, and this is a single run; add -m"
    )
    assert not (tmp_path / "results").exists()


def test_packs_of_nothing_are_refused(parts: Path, tmp_path: Path) -> None:
    outcome = command(*arguments(parts, tmp_path / "results", *SWEEP, "hydra.sweeper.runs_per_job=0"))
    assert outcome.code == 1
    assert outcome.err.strip() == "error: hydra.sweeper.runs_per_job=0 must be 1 or more"


def test_what_is_over_all_runs_is_not_made_anew_after_every_run(parts: Path, tmp_path: Path) -> None:
    """It takes the longer the more runs there are, and would come to cost more than they do."""
    results = tmp_path / "results"
    made: list[int] = []
    write_shared = reporting.write_shared

    def slow(results_dir: Path, run_ids: Any) -> Any:
        made.append(len(read_records(results)))
        clock[0] += 100.0
        return write_shared(results_dir, run_ids)

    clock = [0.0]
    with (
        mock.patch.object(reporting, "write_shared", slow),
        mock.patch.object(reporting.time, "monotonic", lambda: clock[0]),
    ):
        outcome = command(*arguments(parts, results, "-m", "k_shot=0,1,2"))
    assert outcome.code == 0
    assert made == [2, 6], "after the first run, and at the end"
    assert (results / "tables/overview.md").read_text().count("| folder ") == 3


def test_a_group_is_named_by_what_was_asked_for_and_not_by_how() -> None:
    how = "results_dir=x tracker=wandb runtime.workers=3 split_categories=true hydra/launcher=ray"
    assert sweep._group(f"python run.py -m k_shot=0,2 dataset=mvtec {how}") == "k_shot=0,2 dataset=mvtec"
    assert sweep._group(f"python run.py -m {how}") is None


@pytest.mark.parametrize("how", [[], ["split_categories=true"]])
def test_each_run_is_mirrored_once_and_under_its_sweep(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: list[str]
) -> None:
    payloads: list[dict[str, Any]] = []

    def note(payload: dict[str, Any]) -> str:
        payloads.append(json.loads(json.dumps(payload)))
        return "mirrored"

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(tracking, "_in_child", note)
    base = arguments(parts, tmp_path / "results", *SWEEP, "tracker=wandb", *how)
    assert command(*base).code == 0
    assert [payload["summary"]["classes"] for payload in payloads] == [2, 2]
    (group,) = {payload["group"] for payload in payloads}
    assert group.startswith("dataset=folder dataset.root=")
    assert command(*base).code == 0
    assert len(payloads) == 2, "nothing new, nothing to mirror"
