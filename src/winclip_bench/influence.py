"""Which reference image moves a category most: every one of the k left out in turn.

    python -m winclip_bench.influence dataset=mvtec k_shot=4 seed=1      takes the settings of run.py, for one run

Features come from the store and comparisons are remembered, so that an image left out costs a maximum over the others;
what is not in the store is encoded first, and said. Prints a markdown table per category and writes all of them to
``<results_dir>/influence/<dataset>-<run_id>.md``. Exit code 0 only if every category could be evaluated.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from winclip_bench import cli
from winclip_bench.config import Config
from winclip_bench.data import Category
from winclip_bench.errors import InputError, RunError, printable
from winclip_bench.evaluation import evaluate
from winclip_bench.pipelines.shared import Evaluation, Reference, choose_references
from winclip_bench.records import check_writable, write_atomically
from winclip_bench.report.tables import METRICS, MISSING, grid, markdown
from winclip_bench.runner import prepare

NOTE = (
    "The first row is the score with all references in percent, each other one how many points it moves when that "
    "image is left out; the image that moves auroc_sp most comes first, then auroc_px."
)

Metrics = Mapping[str, float | None]


@dataclass(frozen=True)
class Influence:
    """What the references of a category do.

    metrics   with all references, in 0–1; None where undefined
    without   reference -> metrics without it
    encoded   how many images were not in the store
    """

    metrics: Metrics
    without: Mapping[Reference, Metrics]
    encoded: int

    def change(self, reference: Reference, metric: str) -> float | None:
        """Metric without the reference minus metric with it."""
        before, after = self.metrics[metric], self.without[reference][metric]
        return None if before is None or after is None else after - before

    def ranked(self) -> list[Reference]:
        """The references, the largest change of the image AUROC first, then of the pixel AUROC, either way."""
        return sorted(
            self.without,
            key=lambda reference: [abs(self.change(reference, metric) or 0.0) for metric in ("auroc_sp", "auroc_px")],
            reverse=True,
        )


def leave_one_out(run: Evaluation, category: Category) -> Influence:
    """A category with its references, and without each of them.

    An image that was drawn several times is left out as a whole. Raises InputError where fewer than two different ones
    are there, or as `evaluate` does.
    """
    by_content = {reference.sha256: reference for reference in choose_references(run, category)}
    references = list(by_content.values())
    if len(references) < 2:
        raise InputError(
            f"{category.name} has {len(references)} different reference images, and leaving one out needs two; "
            f"set k_shot to 2 or more"
        )

    def metrics(some: Sequence[Reference]) -> tuple[Metrics, int]:
        config = replace(run.config, save_maps=False, pictures=0)
        result = evaluate(replace(run, config=config, listed={category.name: some}), category)
        return result.record.metrics, result.encoded

    everything, encoded = metrics(references)
    without = {left: metrics([other for other in references if other != left])[0] for left in references}
    return Influence(everything, without, encoded)


def to_markdown(category: str, influence: Influence) -> str:
    """The influence of a category's references as a table."""
    everything = (influence.metrics[metric] for metric in METRICS)
    rows = [
        [f"all {len(influence.without)}", *(MISSING if value is None else f"{100 * value:.1f}" for value in everything)]
    ]
    for reference in influence.ranked():
        changes = (influence.change(reference, metric) for metric in METRICS)
        rows.append([markdown(reference.path), *(_points(change) for change in changes)])
    return f"### {markdown(category)}\n\n{grid(('without', *METRICS), rows, texts=1)}\n"


def run(config: Config) -> int:
    """Leave out the references of every category of a run: 0 if all could be evaluated, else 1.

    Raises InputError for what concerns the whole run.
    """
    if config.k_shot < 2:
        raise InputError(
            f"leaving one reference out needs at least two of them; set k_shot={config.k_shot} to 2 or more"
        )
    results_dir = Path(config.results_dir)
    check_writable(results_dir)
    evaluation, selected = prepare(config)
    title = f"## References of {evaluation.dataset}, k = {config.k_shot}, run {evaluation.run_id}"
    parts = [f"{markdown(title)}\n", f"{markdown(NOTE)}\n"]
    print("\n".join(parts))
    failed = False
    for category in selected:
        try:
            influence = leave_one_out(evaluation, category)
        except RunError:
            raise
        except InputError as error:
            failed = True
            _say(f"error: {category.name}: {error}")
            continue
        if influence.encoded:
            _say(f"{category.name}: {influence.encoded} images were not in the store and have been encoded")
        parts.append(to_markdown(category.name, influence))
        print(parts[-1])
    path = results_dir / "influence" / f"{evaluation.dataset}-{evaluation.run_id}.md"
    write_atomically(path, "\n".join(parts).encode())
    print(path)
    return int(failed)


def main(overrides: Sequence[str]) -> int:
    """Run the command with the settings of `run.py`; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    try:
        return run(cli.compose(overrides))
    except InputError as error:
        _say(f"error: {error}")
        return 1


def _points(change: float | None) -> str:
    """Percentage points with their sign.

    >>> _points(-0.0123), _points(0.0), _points(-1e-9), _points(None)
    ('−1.23', '0.00', '0.00', '–')
    """
    if change is None:
        return MISSING
    points = round(100 * change, 2)
    return f"{'+' if points > 0 else '−' if points < 0 else ''}{abs(points):.2f}"


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
