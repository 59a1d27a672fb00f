"""The direction of imports: leaves know neither the configuration nor those who call them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

PACKAGE = "winclip_bench"
SOURCE = REPOSITORY / "src" / PACKAGE
FILES = sorted(SOURCE.rglob("*.py"))
# Who may know everybody.
ABOVE = {"runner", "evaluation", "pipelines", "influence", "cli", "config", "usage", "sweep", "reporting"}
COMMANDS = {"data.__main__"}  # that take the settings of run.py: above the configuration, whatever room they are in

# Room or module -> what else of the package it may import.
MAY_IMPORT = {
    "errors": set(),
    "reading": set(),
    "methods": set(),
    "metrics": set(),
    "data": {"errors", "reading"},
    "clip": {"errors"},
    "records": {"errors", "reading"},
    "features": {"errors", "reading", "records"},
    "encoding": {"errors", "clip", "data", "features"},
    "comparisons": {"encoding", "methods"},
    "estimator": {"errors", "reading", "clip", "data", "methods"},
    "predict": {"errors", "data", "records", "estimator", "pictures"},
    "pictures": {"errors", "reading", "data", "records"},
    "report": {"errors", "reading", "records", "metrics", "pictures"},
    "claims": {"errors", "records", "report", "metrics"},
    "tracking": {"errors", "records", "report", "pictures"},
    "config": {"errors"},
    "data.__main__": {"errors", "config", "data"},
    "progress": {"errors"},
    "jobs": {"errors", "reading", "records"},
    "status": {"errors", "jobs"},
    "reporting": {"errors", "config", "records", "report", "tracking"},
    "usage": {"errors", "config"},
    "sweep": {"errors", "config", "data", "records", "report", "jobs", "reporting", "runner"},
    "console": set(),
    "cli": {"errors", "config", "console", "runner", "predict", "usage", "sweep"},
}


def module_name(path: Path) -> str:
    """Dotted name within the package, empty for the package itself."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imported(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in it; names that are imported from one included."""
    names = set()
    package = [PACKAGE, *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names.update(f"{origin}.{alias.name}" for alias in node.names)
    return names


def rooms(path: Path) -> set[str]:
    """The rooms and modules of the package that a file imports."""
    return {name.split(".")[1] for name in imported(path) if name.startswith(f"{PACKAGE}.")}


def outside(path: Path) -> set[str]:
    """The top-level packages that a file imports."""
    return {name.split(".")[0] for name in imported(path)} - {PACKAGE}


def room_of(path: Path) -> str:
    name = module_name(path)
    return name if name in COMMANDS else name.split(".")[0]


def files_of(*wanted: str) -> list[Path]:
    found = [path for path in FILES if room_of(path) in wanted]
    assert found, f"{wanted} are nowhere in {SOURCE}"
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_name(path) or PACKAGE)
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(path)
    found = rooms(path) - {room, "__version__"}
    if room and room not in ABOVE | COMMANDS:
        assert not found & ABOVE
    if room in MAY_IMPORT:
        assert found <= MAY_IMPORT[room]
    if room not in {"cli", "config", "sweep"} | COMMANDS:
        assert not outside(path) & {"hydra", "omegaconf"}
    if room not in {"cli", "influence"}:  # a program of its own, which takes the settings of run.py
        assert "cli" not in found


PURE = {"torch", "numpy", "scipy", "PIL", "safetensors"}  # arrays, and images and weights as values; no model, no file


def test_methods_know_arrays_and_nothing_else() -> None:
    for path in files_of("methods"):
        assert outside(path) - set(sys.stdlib_module_names) <= PURE, path


def test_metrics_are_plain_arrays() -> None:
    for path in files_of("metrics"):
        assert not outside(path) & {"torch", "torchvision", "open_clip", "timm"}, path


@pytest.mark.parametrize(
    "room",
    [
        *("report", "claims", "pictures", "records", "errors", "data", "data.__main__"),
        *("jobs", "status", "reporting", "sweep"),
    ],
)
def test_rooms_without_torch(room: str) -> None:
    for path in files_of(room):
        assert not outside(path) & {"torch", "torchvision", "open_clip", "timm"}, path


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__init__.py"], ids=module_name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_torch_stays_out_of_what_needs_none() -> None:
    """Tables, metrics and the command line's help work where torch takes seconds to load or is not installed."""
    modules = [
        module_name(path)
        for path in files_of("report", "claims", "records", "metrics", "errors", "cli", "config", "jobs", "status")
    ]
    script = "\n".join(
        [
            "import importlib, sys",
            "sys.modules['torch'] = None  # whoever imports it fails here",
            *(f"importlib.import_module('{PACKAGE}.{module}')" for module in modules),
            "print(sorted({'torchvision', 'open_clip', 'timm'} & sys.modules.keys()))",
        ]
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "[]"
