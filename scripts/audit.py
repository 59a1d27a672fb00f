"""Known vulnerabilities of the pinned versions: `make audit`, which installs pip-audit.

The exit code is 1 where there is one, and where some versions are not known to any advisory service. Where no service
can be asked at all, a warning says so and the exit code is 0: that says nothing about the versions.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PINS = Path(__file__).resolve().parents[1] / "constraints.txt"
SERVICES = ("pypi", "osv")
SECONDS = 25  # for all answers of one service


def ask(service: str) -> list[dict[str, Any]]:
    """What a service knows of each pinned package; empty where it cannot be asked."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(PINS), "--no-deps", "--disable-pip"]
    command += ["--vulnerability-service", service, "--format", "json", "--timeout", "5", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError):
        return []
    return found if any("vulns" in package for package in found) else []


def main() -> int:
    """Run the command; returns the exit code."""
    found = next(filter(None, map(ask, SERVICES)), None)
    if found is None:
        print(
            f"warning: no advisory service could be asked ({', '.join(SERVICES)}); nothing was audited", file=sys.stderr
        )
        return 0
    bad = 0
    for package in found:
        for vulnerability in package.get("vulns", ()):
            mended = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {vulnerability['id']}, mended in {mended}")
            bad += 1
        if "skip_reason" in package:
            print(f"{package['name']} was not audited: {package['skip_reason']}")
            bad += 1
    print(f"{len(found)} pinned versions audited, {bad} faults")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
