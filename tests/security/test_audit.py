"""What the audit of the pinned versions makes of an advisory service's answer."""

import json
import subprocess
from typing import Any
from unittest import mock

import pytest

from scripts import audit

CLEAN = {"name": "numpy", "version": "2.4.6", "vulns": []}
KNOWN = {"name": "pillow", "version": "1.0", "vulns": [{"id": "PYSEC-0-0", "fix_versions": ["1.1"], "aliases": []}]}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("answers", "code", "words"),
    [
        ({"pypi": [CLEAN]}, 0, "1 pinned versions audited, 0 faults"),
        ({"pypi": [CLEAN, KNOWN]}, 1, "pillow 1.0: PYSEC-0-0, mended in 1.1"),
        ({"pypi": [CLEAN, SKIPPED]}, 1, "torch was not audited: Dependency not found"),
        ({"pypi": [SKIPPED], "osv": [KNOWN]}, 1, "pillow 1.0"),
        ({"pypi": [SKIPPED], "osv": None}, 0, "warning: no advisory service could be asked"),
        ({"pypi": None, "osv": None}, 0, "warning: no advisory service could be asked"),
        ({"pypi": TimeoutError, "osv": [CLEAN]}, 0, "0 faults"),
    ],
)
def test_answers(answers: dict[str, Any], code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        found = answers[command[command.index("--vulnerability-service") + 1]]
        if found is TimeoutError:
            raise subprocess.TimeoutExpired(command, 1)
        return subprocess.CompletedProcess(command, 1, "" if found is None else json.dumps({"dependencies": found}), "")

    with mock.patch.object(subprocess, "run", answer):
        assert audit.main() == code
    printed = capsys.readouterr()
    assert words in printed.out + printed.err
