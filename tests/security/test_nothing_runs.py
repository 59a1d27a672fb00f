"""Files from elsewhere are read as values: none runs code, makes an object, or takes all memory."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from tests.helpers import Outcome, arguments, command, jobs, read_records
from tests.report.results import config, make_run
from tests.security.confined import confined
from tests.test_bad_input import Malice, one_sentence
from winclip_bench import pictures, records
from winclip_bench.clip.backbone import find_weights, load_backbone
from winclip_bench.data import content_digests, open_dataset
from winclip_bench.errors import InputError
from winclip_bench.estimator import WinCLIP
from winclip_bench.features.shards import Item, Shards
from winclip_bench.methods import linear_head
from winclip_bench.pipelines.defect_types import curated_set
from winclip_bench.report.__main__ import main as report
from winclip_bench.report.page.content import class_of


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once code of somebody else's has run."""
    return tmp_path / "mark"


def pickled(mark: Path) -> bytes:
    return pickle.dumps(Malice(mark), protocol=2)


def object_array(mark: Path) -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([Malice(mark)], dtype=object), allow_pickle=True)
    return content.getvalue()


def zipped_arrays(mark: Path) -> bytes:
    content = io.BytesIO()
    np.savez(content, a=np.array([Malice(mark)], dtype=object))
    return content.getvalue()


PAYLOADS: dict[str, Callable[[Path], bytes]] = {
    "pickle": pickled,
    "array of objects": object_array,
    "npz of objects": zipped_arrays,
}


def test_the_payloads_would_run(mark: Path) -> None:
    """Otherwise the tests below could not fail."""
    pickle.loads(pickled(mark))
    assert mark.exists()
    mark.unlink()
    np.load(io.BytesIO(object_array(mark)), allow_pickle=True)
    assert mark.exists()


@pytest.mark.parametrize("make", PAYLOADS.values(), ids=PAYLOADS)
def test_a_shard_of_the_store_runs_nothing(tmp_path: Path, mark: Path, make: Callable[[Path], bytes]) -> None:
    folder = tmp_path / "store"
    Shards(folder).write([Item("a", 1, {})], np.zeros((1, 4), np.float32))
    for path in (next(folder.glob("*.npy")), next(folder.glob("*.json"))):
        whole = path.read_bytes()
        path.write_bytes(make(mark))
        (fault,) = Shards(folder).verify()
        assert fault.startswith(str(next(folder.glob("*.npy"))))
        path.write_bytes(whole)
    assert not mark.exists()
    next(folder.glob("*.npy")).write_bytes(make(mark))
    assert Shards(folder).find(["a"]) == {}
    assert list(folder.iterdir()) == []  # it is deleted, and would be computed again
    assert not mark.exists()


@pytest.mark.parametrize("make", PAYLOADS.values(), ids=PAYLOADS)
def test_what_lies_beside_records_and_models_runs_nothing(
    tmp_path: Path, mark: Path, make: Callable[[Path], bytes], parts: Path
) -> None:
    payload = make(mark)
    results = tmp_path / "results"
    run_id = make_run(results, ["bolt"], config("parts", k=1))
    record = records.read_all(results)[0][0]
    for path in results.rglob("*.*"):
        if path.suffix in (".json", ".csv"):
            path.write_bytes(payload)
    assert class_of(results, record).histogram is None
    with pytest.raises(InputError):
        pictures.read(results, run_id, "bolt")
    assert records.read_all(results)[0] == []
    assert report(["page", "--results-dir", str(results)]) == 0

    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "file-digests.json").write_bytes(payload)
    content_digests(open_dataset("folder", parts, "parts"), tmp_path / "cache")

    with pytest.raises(ValueError, match="not the weights of a linear head"):
        linear_head.from_bytes(payload)
    model = tmp_path / "model"
    model.mkdir()
    for broken in ("model.json", "model.safetensors"):
        (model / "model.json").write_text("{}")
        (model / broken).write_bytes(payload)
        with pytest.raises(InputError, match="holds no model"):
            WinCLIP.load(model)
    assert not mark.exists()


def test_a_head_runs_nothing(tmp_path: Path, mark: Path, parts: Path) -> None:
    head = tmp_path / "bolt.head.safetensors"
    head.write_bytes(pickled(mark))
    images = parts / "bolt/test/good/000.png"
    outcome = command("predict", images, "--head", head, "--out", tmp_path / "out")
    one_sentence(outcome, head)
    assert outcome.code == 1
    assert not mark.exists()


def weights_of_a_program(path: Path) -> None:
    """An archive of TorchScript, which torch would hand to another reader."""
    torch.save({"visual.proj": torch.zeros(16)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/constants.pkl", pickle.dumps((), protocol=2))
        archive.writestr(f"{folder}/code/__torch__.py", "class Program(Module):\n  pass\n")


def array_of_weights(path: Path) -> None:
    np.save(path, np.array([{"visual.proj": 1}], dtype=object), allow_pickle=True)


def zip_bomb(path: Path) -> None:
    """A checkpoint of a megabyte whose one tensor unpacks to 300."""
    torch.save({"visual.proj": torch.zeros(16)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = next(name for name in members if name.endswith("data/0"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            if name != data:
                archive.writestr(name, content)
        with archive.open(data, "w") as member:
            for _ in range(300):
                member.write(bytes(2**20))


def overlapping_zip(path: Path) -> None:
    """Sixty-four members that are the same bytes of one archive."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/0", bytes(2**16))
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    start = archive.start_dir
    directory = content[start:end] * 64
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 64, 64, len(directory), start, 0)
    path.write_bytes(content[:start] + directory + tail)


def header_of_a_terabyte(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 10 * 2**40) + b"{}")


def tensors_of_a_terabyte(path: Path) -> None:
    side = 10 * 2**40
    header = json.dumps({"visual.proj": {"dtype": "F32", "shape": [side // 4], "data_offsets": [0, side]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))


def overlapping_tensors(path: Path) -> None:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = json.dumps({"visual.proj": entry, "visual.class_embedding": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


def tensors_beyond_the_end(path: Path) -> None:
    header = json.dumps({"visual.proj": {"dtype": "F32", "shape": [4], "data_offsets": [16, 32]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))


@pytest.mark.parametrize(
    ("make", "ending", "words"),
    [
        (weights_of_a_program, "pt", "does not fit"),
        (array_of_weights, "npy", "does not fit"),
        (zip_bomb, "pt", "it would unpack to 314,5"),
        (overlapping_zip, "bin", "it would unpack to"),
        (header_of_a_terabyte, "safetensors", "does not fit"),
        (tensors_of_a_terabyte, "safetensors", "does not fit"),
        (overlapping_tensors, "safetensors", "does not fit"),
        (tensors_beyond_the_end, "safetensors", "does not fit"),
    ],
)
def test_a_hostile_checkpoint_takes_no_memory(
    tmp_path: Path, make: Callable[[Path], None], ending: str, words: str
) -> None:
    path = tmp_path / f"weights.{ending}"
    make(path)

    def load() -> str:
        try:
            return str(load_backbone(find_weights("winclip-bench-demo", str(path))))
        except InputError as error:
            return str(error)

    sentence = confined(load)
    assert sentence.startswith(f"backbone.pretrained={path}: {path} does not fit winclip-bench-demo")
    assert words in sentence
    assert not any(word in sentence for word in ("MemoryError", "allocate"))


def test_a_run_says_that_a_checkpoint_is_a_bomb(parts: Path, tmp_path: Path) -> None:
    path, results = tmp_path / "weights.pt", tmp_path / "results"
    overlapping_zip(path)
    outcome = command(*arguments(parts, results, f"backbone.pretrained={path}"))
    one_sentence(outcome, "backbone.pretrained", path, "it would unpack to 4,194,304 bytes")
    assert outcome.code == 1
    assert read_records(results) == {}


def test_a_head_whose_header_lies(tmp_path: Path) -> None:
    nested = save({"weight": torch.zeros(4), "bias": torch.zeros(1)}, {"config": "[" * 100_000})
    for content in (nested, struct.pack("<Q", 10 * 2**40) + b"{}", b"", save({"weight": torch.zeros(4)})):
        with pytest.raises(ValueError, match="not the weights of a linear head"):
            linear_head.from_bytes(content)


# Hydra makes objects of what has a `_target_`; data of that shape stays data.


def target(mark: Path) -> dict[str, Any]:
    return {"_target_": "pathlib.Path.touch", "_args_": [str(mark)], "_partial_": False}


@pytest.mark.parametrize(
    "setting",
    [
        "+dataset._target_=pathlib.Path.touch",
        "+_target_=pathlib.Path.touch",
        "dataset.class_names={{_target_:pathlib.Path.touch,self:{mark}}}",
        "prompts.templates=[{{_target_:pathlib.Path.touch,self:{mark}}}]",
        "dataset.categories=[{{_target_:pathlib.Path.touch,self:{mark}}}]",
        "+protocol.class_words={{_target_:pathlib.Path.touch,self:{mark}}}",
        "backbone.pretrained={{_target_:pathlib.Path.touch,self:{mark}}}",
    ],
)
def test_a_setting_makes_no_object(parts: Path, tmp_path: Path, mark: Path, setting: str) -> None:
    outcome = command(*arguments(parts, tmp_path / "results", "dataset.categories=[bolt]", setting.format(mark=mark)))
    assert "Traceback" not in outcome.err
    assert outcome.err.count("error: ") == (outcome.code != 0)
    assert not mark.exists()


def test_a_class_name_that_looks_like_an_object_is_a_name(mark: Path) -> None:
    (job,) = jobs(f"dataset.class_names={{_target_:pathlib.Path.touch,self:{mark}}}")
    assert job.dataset.class_names == {"_target_": "pathlib.Path.touch", "self": str(mark)}
    assert not mark.exists()


def test_a_file_makes_no_object(tmp_path: Path, mark: Path) -> None:
    content = target(mark)
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(json.dumps(content))
    with pytest.raises(InputError, match="is no set of defect prompts"):
        curated_set(str(prompts))
    prompts.write_text(PROMPTS.replace("{crack: ['[c]']}", json.dumps(content)))
    with pytest.raises(InputError, match="must be a list"):
        curated_set(str(prompts))
    for tag in ("!!python/object/apply:os.mkdir", "!!python/object/new:pathlib.Path", "!!python/name:os.system"):
        prompts.write_text(f"{tag} [{mark}]")
        with pytest.raises(InputError, match="nor a readable YAML file"):
            curated_set(str(prompts))

    root = tmp_path / "parts"
    root.mkdir()
    (root / "meta.json").write_text(json.dumps({"test": {"bolt": [content]}, **content}))
    with pytest.raises(InputError, match="must be text"):
        open_dataset("meta_json", root, "parts")

    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_text(json.dumps({"format": 1, "settings": content, **content}))
    (model / "model.safetensors").write_bytes(save({"prototypes": torch.zeros(2, 4)}))
    with pytest.raises(InputError, match="holds no model"):
        WinCLIP.load(model)
    assert not mark.exists()


def test_a_record_makes_no_object(tmp_path: Path, mark: Path) -> None:
    settings = config("parts", k=1)
    for section in ("dataset", "backbone", "method", "prompts", "protocol"):
        settings[section] |= target(mark)
    make_run(tmp_path / "results", ["bolt"], {**settings, **target(mark)})
    for what in ("page", "tables"):
        assert report([what, "--results-dir", str(tmp_path / "results")]) == 0
    assert not mark.exists()


# Files that a person writes and others pass on


LAUGHS = "a: &a [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "\n".join(
    f"{name}: &{name} [{', '.join(9 * [f'*{before}'])}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "\n".join(
    f"{name}: &{name} {{<<: [{', '.join(9 * [f'*{before}'])}]}}"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
PROMPTS = "name: a\nnormal_states: ['[c]']\nanomalous_states: ['[c]']\ntemplates: ['[s]']\ndefects: {crack: ['[c]']}\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LAUGHS, "aliases"),
        (MERGES, "aliases"),
        ("[" * 100_000, "nested too deeply"),
        ("{a: " * 100_000, "nested too deeply|a readable YAML file"),
        ("- " * 100_000, "nested too deeply"),
        (f"name: {'9' * 5000}", "a readable YAML file"),
        (f"name: {'1:' * 2000}1", "needs exactly the keys"),
        ("name: 2001-99-99", "a readable YAML file"),
        ("name: !!int _", "a readable YAML file"),
        ("? [a, b]\n: c", "a readable YAML file"),
        (PROMPTS + "name: b\n", "line 6: the key 'name' stands there twice"),
        (PROMPTS.replace("{crack:", "{crack: ['[c] 1'], crack:"), "the key 'crack' stands there twice"),
        (PROMPTS + "#" * 300_000, "it has more than 262,144 bytes"),
        ("\x00", "a readable YAML file"),
        ("name: \x1b[31m", "a readable YAML file"),
    ],
    ids=lambda value: value[:20],
)
def test_a_file_of_prompts_that_is_a_trap(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(content)

    def read() -> str:
        try:
            return str(curated_set(str(path)))
        except InputError as error:
            return f"refused: {error}"

    sentence = confined(read)
    assert sentence.startswith("refused: ")
    assert str(path) in sentence
    assert any(word in sentence for word in words.split("|")), sentence
    assert "\n" not in sentence


def test_a_file_of_prompts_that_is_none_of_these(tmp_path: Path) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(PROMPTS)
    assert curated_set(str(path)).defects == {"crack": ("[c]",)}


@pytest.mark.parametrize("setting", ["method.defect_prompts={}", "references.file={}", "references.file={}.csv"])
def test_a_file_without_an_end(parts: Path, tmp_path: Path, setting: str) -> None:
    endless = tmp_path / "endless.csv" if setting.endswith(".csv") else tmp_path / "endless"
    endless.symlink_to("/dev/zero")
    chosen = setting.format(tmp_path / "endless")
    more = ["method=defect_types", "stage=single"] if "prompts" in setting else ["k_shot=1"]
    settings = arguments(parts, tmp_path / "results", "dataset.categories=[bolt]", chosen, *more)
    outcome = Outcome(**confined(lambda: asdict(command(*settings)), megabytes=1024))
    one_sentence(outcome, setting.partition("=")[0], endless)
    assert outcome.code == 1
