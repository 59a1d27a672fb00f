"""`python -m winclip_bench.features`: what is stored, whether it is whole, and what is deleted when."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import jobs
from winclip_bench.features import FeatureStore, model_key
from winclip_bench.features.__main__ import default_cache_dir, main
from winclip_bench.features.shards import Item

DAY = 86400.0
MODELS = [
    {"architecture": "ViT-tiny", "weights": "a1b2c3d4e5f6" + "0" * 52, "precision": "fp32"},
    {"architecture": "ViT-tiny", "weights": "a1b2c3d4e5f6" + "0" * 52, "precision": "bf16"},
    {"architecture": "ViT-tiny", "weights": "a1b2c3d4e5f6" + "0" * 52, "prompts": True},
]
IMAGES_32, IMAGES_16, TEXT = KEYS = [model_key(model) for model in MODELS]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Three models of 3 kB and more, last used 30, 20 and 10 days ago, in the order of `KEYS`."""
    for days, model, kinds in zip((30, 20, 10), MODELS, (["image", "patches"], ["image"], ["prompts"]), strict=True):
        store = FeatureStore(tmp_path, model)
        for kind in kinds:
            store.add(kind, [Item("a", 1, {}), Item("b", 1, {})], np.zeros((2, 400)))
        folder = tmp_path / "features" / model_key(model)
        for path in [*folder.rglob("*"), folder]:
            os.utime(path, (time.time() - days * DAY,) * 2)
    return tmp_path


def left(cache: Path) -> set[str]:
    return {path.name for path in (cache / "features").iterdir()}


def evict(cache: Path, *arguments: object) -> set[str]:
    """The models that are left."""
    assert main(["evict", *map(str, arguments), "--cache-dir", str(cache)]) == 0
    return left(cache)


def flip(cache: Path, pattern: str) -> Path:
    (path,) = cache.rglob(pattern)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("command", [[], ["list"]])
def test_lists_what_there_is(cache: Path, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert main([*command, "--cache-dir", str(cache)]) == 0
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()
    ]
    assert header[0] == "model"
    assert [row[0] for row in rows] == [TEXT, IMAGES_16, IMAGES_32], "the most recently used first"
    assert rows[2][1:6] == ["ViT-tiny", "a1b2c3d4e5f6", "fp32", "2", "image, patches"]
    assert rows[0][3] == "text"
    assert rows[2][6].endswith(" kB")
    assert rows[0][7] == time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() - 10 * DAY))


def test_lists_what_it_does_not_understand(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "features" / TEXT / "model.json").write_text('["\x1b[31m"]')
    (cache / "features" / IMAGES_16 / "model.json").write_text('{"architecture": "\\u001b[31m", "weights": 3}')
    (cache / "features" / "notes").mkdir()
    assert main(["--cache-dir", str(cache)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "notes" not in out
    assert out.count("?") >= 6


@pytest.mark.parametrize("command", ["list", "verify", "evict"])
def test_an_empty_cache(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--cache-dir", str(tmp_path / "nowhere")]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert not (tmp_path / "nowhere").exists()


def test_verify_names_what_is_damaged_and_deletes_nothing(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--cache-dir", str(cache)]) == 0
    assert capsys.readouterr().out == "4 shards of 3 models, 0 damaged\n"
    paths = [flip(cache, f"{IMAGES_32}/patches/*.npy"), flip(cache, f"{TEXT}/prompts/*.npy")]
    before = sorted(cache.rglob("*"))
    assert main(["verify", "--cache-dir", str(cache)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [any(line.startswith(f"{path}: ") for line in lines) for path in paths] == [True, True]
    assert "4 shards of 3 models, 2 damaged" in lines
    assert sorted(cache.rglob("*")) == before


def test_evicts_what_is_named(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evict(cache, IMAGES_16, TEXT) == {IMAGES_32}
    assert IMAGES_16 in capsys.readouterr().out


def test_evicts_all(cache: Path) -> None:
    assert evict(cache, "--all") == set()


def test_evicts_nothing_unasked(cache: Path) -> None:
    assert evict(cache) == set(KEYS)


@pytest.mark.parametrize(("days", "kept"), [(31, KEYS), (25, [IMAGES_16, TEXT]), (15.5, [TEXT]), (0, [])])
def test_evicts_what_was_not_used_lately(cache: Path, days: float, kept: list[str]) -> None:
    assert evict(cache, "--older-than", days) == set(kept)


def test_what_is_read_is_not_old(cache: Path) -> None:
    FeatureStore(cache, MODELS[0]).missing(["image"], ["a"])
    assert evict(cache, "--older-than", 15) == {IMAGES_32, TEXT}


def test_evicts_the_least_recently_used_down_to_a_size(cache: Path) -> None:
    sizes = [
        sum(path.stat().st_size for path in (cache / "features" / key).rglob("*") if path.is_file()) for key in KEYS
    ]
    assert evict(cache, "--max-size", sum(sizes)) == set(KEYS)
    assert evict(cache, "--max-size", sum(sizes) - 1) == {IMAGES_16, TEXT}
    assert evict(cache, "--max-size", "1KB") == set()


def test_choices_add_up(cache: Path) -> None:
    assert evict(cache, TEXT, "--older-than", 25) == {IMAGES_16}


def test_a_dry_run_deletes_nothing(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(cache.rglob("*"))
    evict(cache, "--all", "--dry-run")
    assert sorted(cache.rglob("*")) == before
    out = capsys.readouterr().out
    assert all(f"would delete {key}" in out for key in KEYS)


def test_evicts_what_killed_runs_have_left(cache: Path) -> None:
    kind = cache / "features" / IMAGES_32 / "image"
    abandoned = [kind / f".{'0' * 16}.tmp", kind / f"{'0' * 32}.npy", kind.parent / f".{'1' * 16}.tmp"]
    in_use = [kind / f".{'2' * 16}.tmp", kind / f"{'3' * 32}.npy"]
    for path in [*abandoned, *in_use]:
        path.write_bytes(b"half")
    for path in abandoned:
        os.utime(path, (time.time() - DAY,) * 2)
    half_deleted = cache / "features" / f".{IMAGES_16}-0000.evicted"
    (half_deleted / "image").mkdir(parents=True)
    assert evict(cache) == set(KEYS)
    assert not any(path.exists() for path in [*abandoned, half_deleted])
    assert all(path.exists() for path in in_use)
    assert FeatureStore(cache, MODELS[0]).missing(["image"], "ab") == {}


def test_evicted_features_are_computed_again(cache: Path) -> None:
    evict(cache, "--all")
    assert FeatureStore(cache, MODELS[0]).missing(["image"], "ab") == {"image": ["a", "b"]}


def test_a_model_that_is_not_there(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evict", "../..", "--cache-dir", str(cache)]) == 1
    assert "there is no model ../.." in capsys.readouterr().err
    assert left(cache) == set(KEYS)


@pytest.mark.parametrize(
    "arguments", [["evict", "--max-size", "much"], ["evict", "--older-than", "-1"], ["evict", "--older-than", "nan"]]
)
def test_arguments_that_make_no_sense(cache: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--cache-dir", str(cache)])
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
    assert left(cache) == set(KEYS)


def test_a_folder_that_cannot_be_deleted(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    assert main(["evict", "--all", "--cache-dir", str(cache)]) == 1
    assert "cannot be deleted (Permission denied)" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["list"], ["verify"], ["evict"], ["evict", "--all"]])
def test_models_that_another_process_evicts_meanwhile(
    cache: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each time that a folder of the store is read, the first model that is left disappears before."""
    scandir = os.scandir

    def late(place: Path) -> object:
        if "features" in str(place):
            for name in [name for name in KEYS if (cache / "features" / name).exists()][:1]:
                (cache / "features" / name).rename(cache / name)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", late)
    assert main([*command, "--cache-dir", str(cache)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTEMPTY])
def test_others_delete_from_or_write_into_what_is_deleted(
    cache: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the model stays."""
    rmtree = shutil.rmtree

    def disturbed(path: Path) -> None:
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        next(path.glob("*/*")).unlink()
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(shutil, "rmtree", disturbed)
    assert evict(cache, TEXT) == {IMAGES_32, IMAGES_16}


def test_looks_where_runs_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for environment in ({"WINCLIP_BENCH_CACHE": str(tmp_path / "cache")}, {"HOME": str(tmp_path)}):
        with monkeypatch.context() as patch:
            patch.delenv("WINCLIP_BENCH_CACHE", raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            (job,) = jobs()
            assert str(default_cache_dir()) == job.runtime.cache_dir


def test_works_without_torch(cache: Path) -> None:
    script = (
        "import runpy, sys; sys.modules['torch'] = None; "
        f"sys.argv = ['features', '--cache-dir', {str(cache)!r}]; "
        "runpy.run_module('winclip_bench.features', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert TEXT in done.stdout
