"""A device that runs out of memory half-way through a run, simulated: fewer images at once, and the same results."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.faults.harness import Fault, Place, clear, run, tree
from winclip_bench.clip.backbone import Backbone
from winclip_bench.clip.encoder import Features


def room_for(tiles: int, calls: int = 10**9) -> Fault:
    """A device that has room for so many tiles at once, in so many calls."""

    def arm() -> None:
        encode = Backbone.encode_images
        made = []

        def limited(self: Backbone, pixels: Tensor, scales: Sequence[int], full: bool = True) -> Features:
            made.append(len(pixels))
            if len(pixels) > tiles or len(made) > calls:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return encode(self, pixels, scales, full)

        Backbone.encode_images = limited  # type: ignore[method-assign]

    return arm


def words(place: Place, batch_size: int) -> list[str]:
    return [*place.words("k_shot=1", "dataset.categories=[bolt]"), f"runtime.batch_size={batch_size}"]


def test_less_memory_than_the_batch_wants(place: Place) -> None:
    """Bit for bit what the smaller batch gives, which was asked for in the first place or found by trying."""
    assert run(place, words(place, 2)).code == 0
    asked = tree(place.results)
    clear(place)
    ended = run(place, words(place, 4), room_for(2))
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    (warning,) = ended.warnings
    assert "out of device memory with 4 images at once; going on with 2" in warning
    found = tree(place.results)
    assert found.keys() == asked.keys()
    for name in asked:
        if not name.endswith((".json", ".html")):  # which keep the setting
            assert found[name] == asked[name], name
    clear(place)
    assert run(place, words(place, 4)).code == 0
    plenty = tree(place.results)
    (maps,) = (name for name in asked if name.endswith("bolt.npz"))
    for one, other in zip(arrays(found[maps]), arrays(plenty[maps]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6, rtol=0)


def arrays(content: bytes) -> list[NDArray[np.float32]]:
    with np.load(io.BytesIO(content)) as archive:
        return [archive[key] for key in archive]


def test_memory_that_does_not_suffice_for_one_image(place: Place, undisturbed: dict[str, bytes]) -> None:
    """Said once and not for every category; what was encoded before is kept, and with more memory it continues."""
    ended = run(place, place.words(), room_for(1, calls=7))
    assert ended.code == 1
    assert "Traceback" not in ended.err
    (complaint,) = ended.complaints
    assert "runtime.device=cpu" in complaint
    assert "bolt: 4 test images" in ended.err
    assert run(place, place.words()).code == 0
    assert tree(place.results) == undisturbed
