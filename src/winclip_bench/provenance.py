"""Where a number comes from: code, versions, machine."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import winclip_bench

_PACKAGES = ("open_clip_torch", "torch", "torchvision", "timm", "numpy", "scipy", "pillow")


def provenance(device: torch.device) -> dict[str, Any]:
    """Git state, package versions and machine, as records keep them."""
    return {
        "git": _git(),
        "versions": {
            "winclip-bench": winclip_bench.__version__,
            "python": platform.python_version(),
            **{package: _version(package) for package in _PACKAGES},
        },
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        },
    }


def _git() -> dict[str, Any] | None:
    """Commit of the checkout that this code runs from and whether it has been changed; None outside of one."""
    here = Path(__file__).parent
    tracked = _run(["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name])
    commit = _run(["git", "-C", str(here), "rev-parse", "HEAD"])
    if tracked is None or commit is None:
        return None
    return {"commit": commit, "dirty": bool(_run(["git", "-C", str(here), "status", "--porcelain", "-uno"]))}


def _run(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
