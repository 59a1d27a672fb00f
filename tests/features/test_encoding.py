"""Images and prompts through the store: nothing is computed twice, and everything agrees bit for bit."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.data.builders import paint
from tests.helpers import arguments, command, read_records, run_ids, without
from winclip_bench import runner
from winclip_bench.clip.backbone import Backbone, Weights
from winclip_bench.clip.encoder import Features
from winclip_bench.comparisons import Comparisons
from winclip_bench.data import file_sha256
from winclip_bench.encoding import Encoder, ImageFile, Preprocessing
from winclip_bench.errors import RunError
from winclip_bench.methods.winclip import max_similarity, text_scores

SCALES = [2, 3]
TILES = Preprocessing("tile", 1.0, "pil")
Calls = list[tuple[int, list[int], bool]]


@contextmanager
def encoded_batches() -> Iterator[Calls]:
    """(tiles, scales, full) of every batch that is encoded meanwhile."""
    calls: Calls = []
    encode = Backbone.encode_images

    def counting(self: Backbone, pixels: Tensor, scales: Sequence[int], full: bool = True) -> Features:
        calls.append((len(pixels), list(scales), full))
        return encode(self, pixels, scales, full)

    with mock.patch.object(Backbone, "encode_images", counting):
        yield calls


@pytest.fixture(scope="module")
def backbone(backbone_of: Callable[[str], Backbone]) -> Backbone:
    return backbone_of("test-native")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    """Square, wide and high ones: one tile, three and two."""
    folder = tmp_path_factory.mktemp("images")
    sizes = [(80, 80), (220, 80), (60, 90), (80, 80)]
    return [as_file(paint(folder / f"{index}.png", index, size)) for index, size in enumerate(sizes)]


def as_file(path: Path) -> ImageFile:
    return ImageFile(path, file_sha256(path))


def make(backbone: Backbone, cache: Path | None, how: Preprocessing = TILES, **changes: Any) -> Encoder:
    """An encoder as a new process has it."""
    values = {"architecture": backbone.architecture, "pretrained": "", "init_seed": 0, "file": None, "sha256": "0" * 64}
    values |= {"image_size": backbone.image_size, "mean": backbone.mean, "std": backbone.std}
    precision = changes.pop("precision", "fp32")
    return Encoder(lambda: backbone, Weights(**(values | changes)), how, precision, cache)


def fill(encoder: Encoder, images: Sequence[ImageFile], scales: Sequence[int] = SCALES, batch_size: int = 2) -> int:
    return encoder.images(images, scales, batch_size=batch_size, workers=1)


def everything(encoder: Encoder, images: Sequence[ImageFile], scales: Sequence[int] = SCALES) -> dict[str, Any]:
    kinds = ["image", "patches", *(f"windows-{side}" for side in scales)]
    return {kind: encoder.features(images, kind) for kind in kinds} | {"where": [*map(encoder.geometry, images)]}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for kind, value in one.items():
        assert torch.equal(value, other[kind]) if isinstance(value, Tensor) else value == other[kind], kind


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cold_warm_and_without_a_store_agree_bit_for_bit(
    backbone: Backbone, images: list[ImageFile], tmp_path: Path, precision: str
) -> None:
    cold, without_store = make(backbone, tmp_path, precision=precision), make(backbone, None, precision=precision)
    assert fill(cold, images) == fill(without_store, images) == len(images)
    found = everything(cold, images)
    assert len(found["image"]) == sum(len(geometry.corners) for geometry in found["where"]) == 1 + 3 + 2 + 1
    assert_same(found, everything(without_store, images))
    with encoded_batches() as calls:
        warm = make(backbone, tmp_path, precision=precision)
        assert fill(warm, images) == 0
        assert_same(found, everything(warm, images))
    assert calls == []


def test_what_is_stored_is_what_the_model_computes(backbone: Backbone, images: list[ImageFile]) -> None:
    encoder = make(backbone, None)
    fill(encoder, images, batch_size=1)
    for image in images:
        fresh = make(backbone, None)
        fill(fresh, [image], batch_size=8)
        for kind in ("image", "patches", "windows-2", "windows-3"):
            torch.testing.assert_close(
                encoder.features([image], kind), fresh.features([image], kind), atol=1e-5, rtol=0
            )


def test_the_model_is_not_loaded_where_nothing_is_missing(
    backbone: Backbone, images: list[ImageFile], tmp_path: Path
) -> None:
    cold = make(backbone, tmp_path)
    fill(cold, images)
    cold.prompts(["a", "b"])
    warm = make(backbone, tmp_path)
    with mock.patch.object(Encoder, "backbone", side_effect=AssertionError):
        fill(warm, images)
        assert torch.equal(warm.prompts(["b", "a", "b"]), cold.prompts(["b", "a", "b"]))
        assert warm.grid(images[0]) == backbone.grid


def test_a_new_scale_computes_only_that_scale(backbone: Backbone, images: list[ImageFile], tmp_path: Path) -> None:
    fill(make(backbone, tmp_path), images, [2])
    encoder = make(backbone, tmp_path)
    with encoded_batches() as calls:
        assert fill(encoder, images, [2, 3]) == len(images)
    assert {(tuple(scales), full) for _, scales, full in calls} == {((3,), False)}
    reference = make(backbone, None)
    fill(reference, images, [2, 3])
    for kind in ("image", "patches", "windows-2", "windows-3"):
        torch.testing.assert_close(encoder.features(images, kind), reference.features(images, kind), atol=1e-5, rtol=0)
    with encoded_batches() as calls:
        assert fill(make(backbone, tmp_path), images, [3]) == 0
    assert calls == []


def test_images_that_lack_different_things_are_encoded_for_what_they_lack(
    backbone: Backbone, images: list[ImageFile], tmp_path: Path
) -> None:
    fill(make(backbone, tmp_path), images[:1], [2])
    with encoded_batches() as calls:
        assert fill(make(backbone, tmp_path), [images[0], images[3]], [2, 3], batch_size=1) == 2
    assert sorted(calls) == [(1, [2, 3], True), (1, [3], False)]


def test_an_image_is_its_content(backbone: Backbone, images: list[ImageFile], tmp_path: Path) -> None:
    """A copy under another name is the same image; another content under the same name is not."""
    fill(make(backbone, tmp_path / "cache"), images)
    copy = tmp_path / "copy.png"
    copy.write_bytes(images[0].path.read_bytes())
    assert fill(make(backbone, tmp_path / "cache"), [*images, as_file(copy)]) == 0
    paint(copy, 99, (80, 80))
    assert fill(make(backbone, tmp_path / "cache"), [*images, as_file(copy)]) == 1


def test_an_image_that_is_listed_twice_is_encoded_once(backbone: Backbone, images: list[ImageFile]) -> None:
    encoder = make(backbone, None)
    assert fill(encoder, [images[0], images[1], images[0]]) == 2
    assert len(encoder.features([images[0], images[0]], "image")) == 2


@pytest.mark.parametrize(
    ("how", "changes"),
    [
        (Preprocessing("squash", 1.0, "pil"), {}),
        (Preprocessing("tile", 0.5, "pil"), {}),
        (Preprocessing("tile", 1.0, "tensor"), {}),
        (TILES, {"sha256": "1" * 64}),
        (TILES, {"mean": (0.5, 0.5, 0.5)}),
        (TILES, {"precision": "bf16"}),
    ],
    ids=["squash", "stride", "resize", "weights", "mean", "precision"],
)
def test_what_changes_a_feature_is_another_key(
    backbone: Backbone, images: list[ImageFile], tmp_path: Path, how: Preprocessing, changes: dict[str, Any]
) -> None:
    fill(make(backbone, tmp_path), images[:1])
    assert fill(make(backbone, tmp_path, how, **changes), images[:1]) == 1
    assert fill(make(backbone, tmp_path), images[:1]) == 0


def test_a_damaged_shard_is_encoded_again(
    backbone: Backbone, images: list[ImageFile], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cold = make(backbone, tmp_path)
    fill(cold, images)
    expected = everything(cold, images)
    (path,) = tmp_path.rglob("windows-3/*.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    encoder = make(backbone, tmp_path)
    with encoded_batches() as calls:
        assert fill(encoder, images) == len(images)
    assert {(tuple(scales), full) for _, scales, full in calls} == {((3,), False)}
    assert [message for message in caplog.messages if str(path) in message]
    torch.testing.assert_close(encoder.features(images, "windows-3"), expected["windows-3"], atol=1e-5, rtol=0)
    assert fill(make(backbone, tmp_path), images) == 0


def test_prompts_are_encoded_once_each(backbone: Backbone, tmp_path: Path) -> None:
    asked: list[list[str]] = []
    encode = Backbone.encode_prompts

    def counting(self: Backbone, prompts: Sequence[str]) -> Tensor:
        asked.append(list(prompts))
        return encode(self, prompts)

    prompts = ["a photo", "a “photo”/\n", "a photo"]
    with mock.patch.object(Backbone, "encode_prompts", counting):
        first = make(backbone, tmp_path).prompts(prompts)
        second = make(backbone, tmp_path).prompts([*prompts, "another"])
    assert asked == [prompts[:2], ["another"]]
    assert torch.equal(first, second[:3])
    assert torch.equal(first[0], first[2])


def test_out_of_memory_halves_the_batch(
    backbone: Backbone, images: list[ImageFile], caplog: pytest.LogCaptureFixture
) -> None:
    encode = Backbone.encode_images
    small, sizes = make(backbone, None), []

    def limited(self: Backbone, pixels: Tensor, scales: Sequence[int], full: bool = True) -> Features:
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.cuda.OutOfMemoryError("no room")
        return encode(self, pixels, scales, full)

    with mock.patch.object(Backbone, "encode_images", limited):
        assert fill(small, images, batch_size=7) == len(images)
    assert [size for size in sizes if size > 2] == [7, 3]  # what fits is remembered
    assert any("memory" in message for message in caplog.messages)
    plenty = make(backbone, None)
    fill(plenty, images, batch_size=7)
    for kind in ("image", "patches", "windows-2", "windows-3"):
        torch.testing.assert_close(small.features(images, kind), plenty.features(images, kind), atol=1e-5, rtol=0)


def test_one_image_too_many_for_the_memory_is_said(backbone: Backbone, images: list[ImageFile]) -> None:
    with (
        mock.patch.object(Backbone, "encode_images", side_effect=torch.cuda.OutOfMemoryError("no room")),
        pytest.raises(RunError, match=r"use runtime\.device=cpu"),
    ):
        fill(make(backbone, None), images)


def unit(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features, dim=-1)


class TestComparisons:
    """Remembered similarities against computing them directly."""

    @pytest.mark.parametrize(("kind", "norm"), [("patches", False), ("patches", True), ("windows-2", False)])
    def test_any_subset_is_the_direct_computation(
        self, backbone: Backbone, images: list[ImageFile], kind: str, norm: bool
    ) -> None:
        encoder = make(backbone, None)
        fill(encoder, images)
        comparisons = Comparisons(encoder)
        queries = encoder.features(images, kind)
        queries = backbone.normalise_patches(queries) if norm else queries
        for chosen in ([0], [1], [0, 1], [2, 0], [3, 1, 2], [0, 0]):
            references = [images[index] for index in chosen]
            gallery = encoder.features(references, kind).flatten(0, 1)
            gallery = backbone.normalise_patches(gallery) if norm else gallery
            found = comparisons.to_nearest(images, references, kind, norm)
            torch.testing.assert_close(found, max_similarity(unit(queries), unit(gallery)), atol=1e-5, rtol=0)
            assert torch.equal(found, Comparisons(encoder).to_nearest(images, references[::-1], kind, norm))

    def test_each_reference_is_compared_once(self, backbone: Backbone, images: list[ImageFile]) -> None:
        encoder = make(backbone, None)
        fill(encoder, images)
        comparisons = Comparisons(encoder)
        with mock.patch("winclip_bench.comparisons.max_similarity", side_effect=max_similarity) as compare:
            for chosen in ([0], [0, 1], [1, 2], [2, 1, 0]):
                comparisons.to_nearest(images, [images[index] for index in chosen], "patches")
        assert compare.call_count == 3

    def test_text_scores_are_those_of_the_features_and_computed_once(
        self, backbone: Backbone, images: list[ImageFile]
    ) -> None:
        encoder = make(backbone, None)
        fill(encoder, images)
        comparisons = Comparisons(encoder)
        some, other = (unit(torch.randn(2, encoder.features(images, "image").shape[-1])) for _ in range(2))
        with mock.patch("winclip_bench.comparisons.text_scores", side_effect=text_scores) as compare:
            for prototypes, temperature in ((some, 0.1), (other, 0.1), (some, 0.2), (some, 0.1)):
                found = comparisons.to_text(images, "windows-2", prototypes, temperature)
                expected = text_scores(encoder.features(images, "windows-2"), prototypes, temperature)
                assert torch.equal(found, expected)
        assert compare.call_count == 3

    def test_the_budget_drops_the_least_recently_used(self, backbone: Backbone, images: list[ImageFile]) -> None:
        encoder = make(backbone, None)
        fill(encoder, images)
        size = Comparisons(encoder).to_nearest(images, images[:1], "patches").nbytes  # too small a budget for features
        comparisons = Comparisons(encoder)
        with (
            mock.patch("winclip_bench.comparisons._BUDGET", 2 * size),
            mock.patch("winclip_bench.comparisons.max_similarity", side_effect=max_similarity) as compare,
        ):
            for index in (0, 1, 0, 2, 0, 1):
                comparisons.to_nearest(images, [images[index]], "patches")
        assert compare.call_count == 4  # 0, 1, 2, and 1 again, which 2 has displaced


@pytest.fixture
def swept(parts: Path, tmp_path: Path) -> Iterator[Callable[..., Calls]]:
    """Runs the command on one category in a process that remembers nothing; gives the batches it has encoded."""

    def run(*settings: str) -> Calls:
        runner._encoder.cache_clear()
        runner._comparisons.cache_clear()
        with encoded_batches() as calls:
            outcome = command(*arguments(parts / "bolt", tmp_path / "results", "dataset.name=parts", *settings))
        assert outcome.code == 0, outcome.err
        return [call for call in calls if call[0] == 1]  # the self-check of a model that is loaded encodes two

    yield run
    runner._encoder.cache_clear()
    runner._comparisons.cache_clear()


def test_settings_that_change_no_feature_encode_no_image(swept: Callable[..., Calls]) -> None:
    batch = ["runtime.batch_size=1"]
    assert len([full for *_, full in swept("k_shot=3", *batch) if full]) >= 7
    for settings in (
        ["k_shot=0"],
        ["k_shot=1"],
        ["k_shot=2", "seed=1"],
        ["prompts.templates=['an unseen photo of a [s].']"],
        ["protocol.text_prototype=mean_of_raw"],
        ["protocol.temperature=0.07"],
        ["protocol.map_combination=sum", "k_shot=1"],
        ["protocol.patch_features=after_ln_post", "k_shot=1"],
        ["protocol.references=with_replacement", "k_shot=2"],
        ["protocol.mask_resize=bilinear"],
    ):
        assert swept(*settings, *batch, "force=true") == [], settings


def test_settings_that_change_features_encode_images(swept: Callable[..., Calls]) -> None:
    swept("runtime.batch_size=1")
    for setting in ("protocol.non_square=squash", "protocol.resize=tensor"):
        assert len([full for *_, full in swept(setting, "runtime.batch_size=1") if full]) >= 4, setting
    new_scale = swept("scales=[2,3]", "runtime.batch_size=1")
    assert ([3], False) in [call[1:] for call in new_scale]
    assert [2, 3] not in [scales for _, scales, _ in new_scale]


def test_a_run_records_the_same_cold_warm_and_without_a_cache(parts: Path, tmp_path: Path) -> None:
    found = []
    for results, cache in (("cold", "cache"), ("warm", "cache"), ("none", "file/cache")):
        (tmp_path / "file").write_text("a folder cannot be made in a file")
        runner._encoder.cache_clear()
        runner._comparisons.cache_clear()
        outcome = command(
            *arguments(parts / "bolt", tmp_path / results, "k_shot=2", f"runtime.cache_dir={tmp_path / cache}")
        )
        assert outcome.code == 0, outcome.err
        assert outcome.err.count("are not kept on disk") == (results == "none")
        (run_id,) = run_ids(tmp_path / results)
        (record,) = read_records(tmp_path / results).values()
        (scores,) = (tmp_path / results).rglob("*.scores.csv")
        config = without(record["config"], "runtime", "results_dir")
        found.append((run_id, scores.read_bytes(), record["metrics"], config))
    assert found[0] == found[1] == found[2]
