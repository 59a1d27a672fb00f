"""Verdicts as markdown, CSV and JSON, and the eight rows that SOTAVerified lists. Percent everywhere."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from winclip_bench.claims.published import MEAN
from winclip_bench.claims.verdicts import Result, Verdict
from winclip_bench.report.tables import MISSING, grid, markdown, spreadsheet

COLUMNS = (
    "claim", "method", "dataset", "k_shot", "variant", "object", "metric", "claimed", "claimed_std", "measured",
    "interval_low", "interval_high", "draws", "difference", "verdict", "suspect", "why", "runs", "experiment",
    "quality", "note",
)  # fmt: skip
SOTAVERIFIED = ("dataset", "model", "metric", "claimed", "verified", "status")

_DATASETS = {"mvtec": "MVTec AD", "visa": "VisA"}
_STATUS = {
    Verdict.reproduced: "verified", Verdict.above: "not verified: measured above the claim",
    Verdict.below: "not verified: measured below the claim", Verdict.not_comparable: "unverified: not comparable",
    Verdict.not_run: "unverified: not run",
}  # fmt: skip


def sotaverified(results: Sequence[Result]) -> list[dict[str, str]]:
    """The rows that SOTAVerified lists as claimed: the paper's image AUROC for k = 0, 1, 2, 4 on both datasets.

    verified  what was measured, where it can be compared with the claim, reproduced or not
    """
    rows = []
    for result in results:
        claim = result.claim
        if (claim.claim, claim.object, claim.metric) == ("winclip_paper", MEAN, "auroc_sp"):
            compared = result.verdict in {Verdict.reproduced, Verdict.above, Verdict.below}
            cells = (
                _DATASETS.get(claim.dataset, claim.dataset),
                f"WinCLIP+ ({claim.k_shot}-shot)" if claim.k_shot else "WinCLIP (zero-shot)",
                "image AUROC",
                _with_std(result),
                _interval(result) if compared else MISSING,
                _STATUS[result.verdict],
            )
            rows.append(dict(zip(SOTAVERIFIED, cells, strict=True)))
    return rows


def summary(results: Sequence[Result]) -> str:
    """Markdown: how many numbers of each table have which verdict; suspect ones are not counted."""
    tables: dict[tuple[str, str, int], Counter[Verdict]] = {}
    for result in results:
        claim = result.claim
        counts = tables.setdefault((claim.claim, claim.dataset, claim.k_shot), Counter())
        if not claim.suspect:
            counts[result.verdict] += 1
    cells = [
        [markdown(name), markdown(dataset), str(k_shot), *(str(counts[verdict]) for verdict in Verdict)]
        for (name, dataset, k_shot), counts in tables.items()
    ]
    total = sum(tables.values(), Counter[Verdict]())
    cells.append(["all", "", "", *(str(total[verdict]) for verdict in Verdict)])
    return grid(("claim", "dataset", "k", *Verdict), cells, texts=3)


def short_markdown(results: Sequence[Result]) -> str:
    """What a terminal shows: the rows of SOTAVerified, if they are among the claims, and the summary."""
    listed = [[markdown(cell) for cell in row.values()] for row in sotaverified(results)]
    parts = ["## SOTAVerified", grid(SOTAVERIFIED, listed, texts=3)] if listed else []
    parts += ["## Verdicts", summary(results)]
    if any(result.claim.suspect for result in results):
        parts.append("Numbers that are probably misprints are compared and marked, but not counted.")
    return "\n\n".join(parts) + "\n"


def to_markdown(results: Sequence[Result]) -> str:
    """The short form and one table per source with every number for which there is a record of any kind."""
    parts = [short_markdown(results).rstrip("\n")]
    by_claim: dict[str, list[Result]] = {}
    for result in results:
        by_claim.setdefault(result.claim.claim, []).append(result)
    head = ("dataset", "k", "what", "metric", "verdict", "why", "claimed", "measured", "difference", "draws")
    for name, group in by_claim.items():
        run = [result for result in group if result.verdict is not Verdict.not_run]
        parts.append(f"## {markdown(name)}")
        if run:
            parts.append(grid(head, [_cells(result) for result in run], texts=6))
        if left := len(group) - len(run):
            parts.append(f"{left} of {len(group)} numbers have no record yet; claims.csv says how to run them.")
    return "\n\n".join(parts) + "\n"


def to_csv(results: Sequence[Result]) -> str:
    """Every number, in full; a cell without one is ``–``, as in the tables of runs."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for result in results:
        row = _row(result) | {"why": "; ".join(result.why), "runs": " ".join(result.runs)}
        rows.writerow(spreadsheet(cell) if isinstance(cell, str) else _plain(cell) for cell in row.values())
    return text.getvalue()


def to_json(results: Sequence[Result]) -> str:
    """Every number, in full, and the rows of SOTAVerified."""
    content = {"sotaverified": sotaverified(results), "claims": [_row(result) for result in results]}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _row(result: Result) -> dict[str, Any]:
    claim, measured = result.claim, result.measured
    cells = (
        claim.claim, claim.method, claim.dataset, claim.k_shot, claim.variant, claim.object, claim.metric, claim.value,
        claim.std, measured and measured.mean, measured and measured.low, measured and measured.high,
        measured and measured.draws, result.difference, result.verdict.value, claim.suspect, list(result.why),
        list(result.runs), claim.settings.experiment, claim.quality, claim.note,
    )  # fmt: skip
    return dict(zip(COLUMNS, cells, strict=True))


def _plain(cell: Any) -> str:
    if cell is None:
        return MISSING
    return str(cell).lower() if isinstance(cell, bool) else repr(cell)


def _cells(result: Result) -> list[str]:
    claim, measured = result.claim, result.measured
    what = " · ".join(text for text in (claim.variant, claim.object) if text)
    remarks = [*(["SUSPECT, not counted"] if claim.suspect else []), *result.why]
    return [
        *map(markdown, (claim.dataset, str(claim.k_shot), what, claim.metric, result.verdict, "; ".join(remarks))),
        _with_std(result),
        _interval(result),
        MISSING if result.difference is None else f"{result.difference:+.2f}",
        MISSING if measured is None or claim.settings.draws is None else str(measured.draws),
    ]


def _with_std(result: Result) -> str:
    claim = result.claim
    value = f"{claim.value:.1f}" if round(claim.value, 1) == claim.value else repr(claim.value)
    return value + ("" if claim.std is None else f" ± {claim.std:.1f}")


def _interval(result: Result) -> str:
    """Two decimals: one would hide what the rule looks at."""
    measured = result.measured
    if measured is None:
        return MISSING
    if measured.low is None or measured.high is None:
        return f"{measured.mean:.2f}"
    return f"{measured.mean:.2f} [{measured.low:.2f}, {measured.high:.2f}]"
