"""The wheel: everything that the code reads is in it, and its command runs from any folder."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.helpers import REPOSITORY, python_path

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("setuptools", "pip")),
    reason="building a wheel takes pip and setuptools",
)


def run(*command: object, **settings: object) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **settings)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that neither leftovers of earlier builds nor the checkout are touched."""
    folder = tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "conf", "results/published"):
        shutil.copytree(REPOSITORY / name, folder / "checkout" / name, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / "checkout")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", *options, folder / "checkout")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel is installed."""
    target = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", target, wheel)
    return target


def installed(site: Path, *arguments: str, cwd: Path) -> str:
    """Output of the installed package's command in another folder, away from the checkout."""
    script = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f).lower()]; "
        "import winclip_bench; "
        f"assert winclip_bench.__file__.startswith({str(site)!r}), winclip_bench.__file__; "
        "from winclip_bench.cli import main; sys.exit(main())"
    )
    environment = os.environ | {"PYTHONPATH": python_path(site), "OMP_NUM_THREADS": "1"}
    return run(sys.executable, "-P", "-c", script, *arguments, cwd=cwd, env=environment)


def test_the_wheel_holds_every_module_and_every_file_that_the_code_reads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    held = {name for name in names if name.startswith("winclip_bench/")}
    plugins = {name for name in names if name.startswith("hydra_plugins/")}
    assert plugins == {"hydra_plugins/winclip_bench_sweeper.py"}, "a package that others share has no file of ours"
    source, conf = REPOSITORY / "src" / "winclip_bench", REPOSITORY / "conf"
    wanted = {
        f"winclip_bench/{path.relative_to(source).as_posix()}"
        for path in source.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    wanted |= {f"winclip_bench/conf/{path.relative_to(conf).as_posix()}" for path in conf.rglob("*.yaml")}
    wanted.add("winclip_bench/conf/__init__.py")
    published = REPOSITORY / "results" / "published"
    wanted |= {f"winclip_bench/published/{path.name}" for path in published.iterdir() if path.is_file()}
    assert wanted == held
    assert "winclip_bench/conf/config.yaml" in held
    assert "winclip_bench/clip/architectures/winclip-bench-demo.json" in held


def test_the_wheel_brings_the_command_the_sweeper_and_nothing_else_to_the_top(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        assert "winclip-bench = winclip_bench.cli:command" in archive.read(entry_points).decode()
    assert {name.split("/")[0].rsplit("-", 1)[0] for name in names} == {"winclip_bench", "hydra_plugins"} | {
        name.split("/")[0].rsplit("-", 1)[0] for name in names if ".dist-info/" in name
    }
    assert any(name.endswith("LICENSE") for name in names)


def test_the_installed_command_runs_from_any_folder(site: Path, tmp_path: Path) -> None:
    shown = yaml.safe_load(installed(site, "--cfg", "job", "dataset=visa", "k_shot=4", cwd=tmp_path))
    assert (shown["k_shot"], shown["backbone"]["name"]) == (4, "vit_b_16_plus_240")
    assert list(tmp_path.iterdir()) == []


def test_the_installed_command_computes(site: Path, parts: Path, tmp_path: Path) -> None:
    settings = (
        "dataset=folder", f"dataset.root={parts}", "backbone=demo", "scales=[2]", "dataset.categories=[bolt]",
        "runtime.cache_dir=cache",
    )  # fmt: skip
    assert "| mean" in installed(site, *settings, cwd=tmp_path)
    assert len(list(tmp_path.glob("results/records/folder/*/bolt.json"))) == 1


def test_run_py_and_the_scripts_run_from_any_folder(tmp_path: Path) -> None:
    shown = yaml.safe_load(run(sys.executable, REPOSITORY / "run.py", "--cfg", "job", "k_shot=2", cwd=tmp_path))
    assert shown["k_shot"] == 2
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (bin_folder / "python").chmod(0o755)
    environment = os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    for name in ("zero_shot.sh", "few_shot.sh"):
        output = run(REPOSITORY / name, "dataset=visa", "seed=7", "--cfg", "job", cwd=tmp_path, env=environment)
        assert yaml.safe_load(output)["seed"] == 7


def test_the_dependencies_are_those_that_the_code_imports() -> None:
    """Whoever installs the wheel gets everything that it imports, wandb excepted, which is optional."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = {
        requirement.split(">")[0].split("<")[0].split("=")[0].lower() for requirement in project["dependencies"]
    }
    of_module = {"open_clip": "open_clip_torch", "PIL": "pillow", "skimage": "scikit-image", "hydra": "hydra-core"} | {
        "yaml": "pyyaml"
    }
    script = (
        "import ast, pathlib, sys\n"
        "trees = [ast.parse(p.read_text()) for p in pathlib.Path('src').rglob('*.py')]\n"
        "nodes = [n for t in trees for n in ast.walk(t)]\n"
        "names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}\n"
        "names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module and not n.level}\n"
        "print(*sorted({name.split('.')[0] for name in names} - set(sys.stdlib_module_names)))\n"
    )
    imported = set(run(sys.executable, "-c", script, cwd=REPOSITORY).split()) - {"winclip_bench", "wandb"}
    assert {of_module.get(name, name).lower() for name in imported} <= declared
