"""A linear layer on frozen image embeddings, trained on normal images against pseudo-anomalies.

The method is the "few-shot" baseline of AISystem-2402 (github.com/PiLab-CAU/AISystem-2402): binary cross-entropy with
logits, Adam, learning rate 1e-4, 5 epochs, batches of 4. Its original form has mistakes that its published
table is made of, and that ``form="original"`` repeats:

- The sigmoid is applied twice: its output is given to a loss that expects logits. The loss of a normal image then
  cannot fall below ln 2, and of an anomalous one not below ln(1 + 1/e).
- The epoch that is kept is the one with the highest accuracy on the test set.
- Its inference takes the largest of one output, which is always the first, and so calls every image normal
  (`original_inference`), where its evaluation during training cuts the output at ½.
- Its "anomalies" are mirrored normal images (`pseudo_anomalies.mirrored`), its images squashed, without CLIP's
  normalisation, and its embeddings not of unit length: all of them matters of what is given to `train`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

Form = Literal["right", "original"]

EPOCHS = 5
LEARNING_RATE = 1e-4
BATCH_SIZE = 4


@dataclass(frozen=True)
class Head:
    """The layer: weight [E] and bias []."""

    weight: Tensor
    bias: Tensor

    def logits(self, embeddings: Tensor) -> Tensor:
        """Anomaly scores [n] of embeddings [n, E]: log-odds of being anomalous, cut at 0."""
        return embeddings @ self.weight + self.bias


@dataclass(frozen=True)
class Training:
    """A trained head and how it came about, one entry per epoch.

    chosen              the epoch whose head it is, from 0
    losses              mean over batches, while training
    accuracies          0–1, while training
    chosen_by           what the choice was made from: loss (right) or accuracy (original) on the images for choosing
    """

    head: Head
    chosen: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    chosen_by: tuple[float, ...]


def train(
    embeddings: Tensor,
    labels: Tensor,
    choose_embeddings: Tensor,
    choose_labels: Tensor,
    *,
    seed: int,
    form: Form = "right",
    epochs: int = EPOCHS,
    learning_rate: float = LEARNING_RATE,
    batch_size: int = BATCH_SIZE,
) -> Training:
    """Train a head on embeddings [n, E] with labels [n], 1 for pseudo-anomalies, and keep one epoch's.

    choose_embeddings, choose_labels  images to choose the epoch with: the right form wants training images held out
                                      (`held_out`) and takes the lowest loss, the original one takes the test set and
                                      the highest accuracy; of equals the first

    The first weights and the order of images come from a generator of ``seed`` alone; the same call gives the same
    head. Computed on the CPU in float32. Raises ValueError for no images or other labels than 0 and 1.
    """
    data = [_checked(embeddings, labels), _checked(choose_embeddings, choose_labels)]
    (inputs, targets), (choose_inputs, choose_targets) = data
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(inputs.shape[1])  # as torch.nn.Linear draws them, which has no generator of its own
    weight = ((2 * torch.rand(inputs.shape[1], generator=generator) - 1) * bound).requires_grad_()
    bias = ((2 * torch.rand((), generator=generator) - 1) * bound).requires_grad_()
    optimiser = torch.optim.Adam([weight, bias], lr=learning_rate)

    heads, losses, accuracies, chosen_by = [], [], [], []
    for _ in range(epochs):
        batch_losses, right = [], 0
        for batch in torch.randperm(len(inputs), generator=generator).split(batch_size):
            outputs = Head(weight, bias).logits(inputs[batch])
            loss = loss_of(outputs, targets[batch], form)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            batch_losses.append(float(loss.detach()))
            right += int(((outputs > 0) == targets[batch].bool()).sum())
        head = Head(weight.detach().clone(), bias.detach().clone())
        outputs = head.logits(choose_inputs)
        heads.append(head)
        losses.append(sum(batch_losses) / len(batch_losses))
        accuracies.append(right / len(inputs))
        if form == "original":
            chosen_by.append(float(((outputs > 0) == choose_targets.bool()).double().mean()))
        else:
            chosen_by.append(float(loss_of(outputs, choose_targets, form)))
    best = max(chosen_by) if form == "original" else min(chosen_by)
    chosen = chosen_by.index(best)
    return Training(heads[chosen], chosen, tuple(losses), tuple(accuracies), tuple(chosen_by))


def loss_of(logits: Tensor, labels: Tensor, form: Form) -> Tensor:
    """Mean binary cross-entropy [] of logits [n]; the original form takes their sigmoid for logits.

    >>> certain, labels = torch.tensor([-20.0, 20.0]), torch.tensor([0.0, 1.0])
    >>> round(float(loss_of(certain, labels, "right")), 4), round(float(loss_of(certain, labels, "original")), 4)
    (0.0, 0.5032)
    """
    return F.binary_cross_entropy_with_logits(logits.sigmoid() if form == "original" else logits, labels)


def original_inference(logits: Tensor) -> Tensor:
    """What the original's inference calls anomalous [n] bool: nothing, the largest of one output being the first.

    >>> original_inference(torch.tensor([-1.0, 5.0]))
    tensor([False, False])
    """
    return logits[:, None].sigmoid().argmax(1) == 1


def held_out(images: int, seed: int, share: float = 0.2) -> Tensor:
    """Which of n training images choose the epoch instead of training: bool [n], ``share`` of them, at least one.

    By image: its pseudo-anomalies must go where it goes, or the choice would be made on images half seen. Raises
    ValueError for fewer than two images.

    >>> int(held_out(10, seed=0).sum()), int(held_out(2, seed=0).sum())
    (2, 1)
    """
    if images < 2:
        raise ValueError("a head needs at least two training images, one to train on and one to choose the epoch with")
    count = min(max(round(share * images), 1), images - 1)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(images, dtype=torch.bool)
    chosen[order[:count]] = True
    return chosen


def to_bytes(head: Head, config: Mapping[str, object]) -> bytes:
    """A head as a safetensors file, ``config`` in its header: what it was trained from and how embeddings were made."""
    tensors = {"weight": head.weight.contiguous(), "bias": head.bias.reshape(1)}
    return save(tensors, {"config": json.dumps(config, sort_keys=True, allow_nan=False)})


def from_bytes(content: bytes) -> tuple[Head, dict[str, object]]:
    """The head and the config that `to_bytes` made a file of. Raises ValueError for anything else."""
    try:
        tensors = load(content)
        # The header: its length in eight bytes, then JSON; the library reads its metadata only from files.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        config = json.loads(header["__metadata__"]["config"])
        weight, bias = tensors["weight"], tensors["bias"]
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"not the weights of a linear head ({error})") from error
    if weight.ndim != 1 or bias.shape != (1,) or not isinstance(config, dict):
        raise ValueError("not the weights of a linear head (other shapes)")
    return Head(weight, bias[0]), config


def _checked(embeddings: Tensor, labels: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
    targets = torch.as_tensor(labels)
    if len(embeddings) == 0 or targets.shape != embeddings.shape[:1] or not ((targets == 0) | (targets == 1)).all():
        raise ValueError("a head is trained on at least one embedding, with one label each, 0 or 1")
    return embeddings.detach().float().cpu(), targets.float().cpu()
