"""The linear head: against torch's own layer and loss, and each mistake of the original where it shows."""

import json
import math

import pytest
import torch

from winclip_bench.methods import linear_head


def blobs(count: int, gap: float, seed: int = 0, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal and anomalous embeddings, in turns, ``gap`` apart along the first axis."""
    labels = torch.arange(count) % 2
    embeddings = 0.1 * torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    embeddings[:, 0] += gap * (labels - 0.5)
    return embeddings, labels


def test_it_learns_to_tell_apart_what_can_be_told_apart() -> None:
    found = linear_head.train(*blobs(60, 4.0), *blobs(40, 4.0, seed=1), seed=0, learning_rate=0.05)
    embeddings, labels = blobs(40, 4.0, seed=2)
    assert torch.equal(found.head.logits(embeddings) > 0, labels.bool())
    assert found.losses[-1] < found.losses[0]
    assert found.accuracies[-1] == 1.0


@pytest.mark.parametrize("form", ["right", "original"])
def test_same_seed_same_head_whatever_else_draws_numbers(form: linear_head.Form) -> None:
    heads = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        heads.append(linear_head.train(*blobs(12, 1.0), *blobs(6, 1.0, seed=1), seed=3, form=form).head)
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert torch.equal(heads[0].bias, heads[1].bias)
    other = linear_head.train(*blobs(12, 1.0), *blobs(6, 1.0, seed=1), seed=4, form=form).head
    assert not torch.equal(heads[0].weight, other.weight)


def test_one_step_is_adams() -> None:
    """With one batch and one epoch each weight moves by the learning rate against its gradient's sign."""
    data = blobs(4, 1.0)
    still, moved = (
        linear_head.train(*data, *data, seed=0, epochs=1, learning_rate=rate, batch_size=4).head for rate in (0.0, 0.01)
    )
    gradient = ((still.logits(data[0]).sigmoid() - data[1])[:, None] * data[0]).mean(0)
    torch.testing.assert_close(moved.weight - still.weight, -0.01 * gradient.sign(), atol=1e-4, rtol=0)
    assert still.weight.abs().max() <= 1 / math.sqrt(8)


def test_the_original_gives_the_loss_a_sigmoid_for_logits() -> None:
    logits, labels = torch.tensor([-3.0, 0.5, 2.0]), torch.tensor([0.0, 0.0, 1.0])
    layer = torch.nn.BCEWithLogitsLoss()
    assert torch.equal(linear_head.loss_of(logits, labels, "right"), layer(logits, labels))
    assert torch.equal(linear_head.loss_of(logits, labels, "original"), layer(torch.sigmoid(logits), labels))


def test_twice_a_sigmoid_bounds_the_loss_and_learns_less() -> None:
    zeros, ones = torch.zeros(1), torch.ones(1)
    assert float(linear_head.loss_of(torch.tensor([-1e4]), zeros, "original")) == pytest.approx(math.log(2))
    assert float(linear_head.loss_of(torch.tensor([1e4]), ones, "original")) == pytest.approx(math.log(1 + 1 / math.e))
    data = blobs(60, 1.0)
    right, original = (
        linear_head.train(*data, *data, seed=0, form=form, epochs=20, learning_rate=0.05)
        for form in ("right", "original")
    )
    confident = [float(found.head.logits(data[0]).abs().mean()) for found in (right, original)]
    assert confident[0] != pytest.approx(confident[1], rel=0.05)
    assert original.losses[-1] > (math.log(2) + math.log(1 + 1 / math.e)) / 2 > right.losses[-1]


def test_the_forms_choose_their_epoch_by_other_things() -> None:
    """The lowest loss against the highest accuracy, the first of equals."""
    right = linear_head.train(*blobs(20, 4.0), *blobs(20, 4.0, seed=1), seed=0, learning_rate=0.05)
    assert right.chosen == right.chosen_by.index(min(right.chosen_by)) == 4
    original = linear_head.train(*blobs(20, 4.0), *blobs(20, 4.0, seed=1), seed=0, form="original", learning_rate=0.05)
    assert original.chosen_by[original.chosen] == max(original.chosen_by)
    assert original.chosen == original.chosen_by.index(max(original.chosen_by)) < 4
    assert all(0 <= accuracy <= 1 for accuracy in original.chosen_by)


def test_choosing_on_the_test_set_makes_the_test_set_part_of_the_training() -> None:
    """Another test set, another head from the same training images: what the right form's held-out images prevent."""
    embeddings, labels = blobs(30, 1.0)
    chosen = {
        int(flip): linear_head.train(
            embeddings, labels, embeddings, labels ^ int(flip), seed=0, form="original", learning_rate=0.05
        ).chosen
        for flip in (False, True)
    }
    assert chosen[0] != chosen[1]


def test_the_originals_inference_calls_everything_normal() -> None:
    logits = torch.linspace(-5, 5, 11)
    assert not linear_head.original_inference(logits).any()
    assert int((logits > 0).sum()) == 5  # what its evaluation during training says of the same images


def test_held_out_is_seeded_and_leaves_images_to_train_on() -> None:
    assert torch.equal(linear_head.held_out(50, 1), linear_head.held_out(50, 1))
    assert not torch.equal(linear_head.held_out(50, 1), linear_head.held_out(50, 2))
    assert [int(linear_head.held_out(count, 0).sum()) for count in (2, 4, 5, 50)] == [1, 1, 1, 10]
    assert int(linear_head.held_out(3, 0, share=1.0).sum()) == 2
    with pytest.raises(ValueError, match="at least two"):
        linear_head.held_out(1, 0)


def test_weights_come_back_with_their_config() -> None:
    head = linear_head.train(*blobs(8, 1.0), *blobs(4, 1.0), seed=0).head
    config = {"backbone": "ViT-B-32", "form": "right", "weights_sha256": "é"}
    back, found = linear_head.from_bytes(linear_head.to_bytes(head, config))
    assert found == config
    embeddings, _ = blobs(5, 1.0)
    assert torch.equal(back.logits(embeddings), head.logits(embeddings))
    assert linear_head.to_bytes(head, config) == linear_head.to_bytes(head, dict(reversed(config.items())))


@pytest.mark.parametrize("content", [b"", b"nonsense", json.dumps({}).encode(), (2).to_bytes(8, "little") + b"{}"])
def test_other_files_are_no_weights(content: bytes) -> None:
    with pytest.raises(ValueError, match="not the weights"):
        linear_head.from_bytes(content)


def test_damaged_weights_are_refused() -> None:
    content = linear_head.to_bytes(linear_head.Head(torch.ones(4), torch.tensor(0.0)), {})
    with pytest.raises(ValueError, match="not the weights"):
        linear_head.from_bytes(content[:-3])


@pytest.mark.parametrize("labels", [[0, 2], [0], []])
def test_bad_training_data_is_refused(labels: list[int]) -> None:
    embeddings = torch.ones(2 if labels else 0, 3)
    with pytest.raises(ValueError, match="one label each"):
        linear_head.train(embeddings, torch.tensor(labels), torch.ones(1, 3), torch.zeros(1), seed=0)
