"""Train the demo's CLIP: `python scripts/train_demo_model.py --seed 0 --out DIR`.

One stage, a fixed number of steps, on endless `fit` samples of the demo data that leave out HELD_OUT_CATEGORIES and
HELD_OUT_DEFECTS. On one machine the same seed gives the same weights, bit for bit, also after an interruption: each
sample and each batch is a pure function of its index, and computing is done by one thread. docs/demo_model.md describes
the result.

DIR gets `weights.safetensors` (fp16), `log.csv`, `curves.svg` and, until the end, `checkpoint.pt`, from which the same
command continues.
"""

import argparse
import csv
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import winclip_bench.clip.backbone  # noqa: F401  (makes the architecture known to open_clip)
from winclip_bench.clip.windows import window_patches
from winclip_bench.data.demo import CATEGORIES, HELD_OUT_CATEGORIES, HELD_OUT_DEFECTS, VERSION, make_sample
from winclip_bench.data.demo.defects import DEFECTS
from winclip_bench.data.samples import GOOD

ARCHITECTURE = "winclip-bench-demo"
STEPS = 1600
SEEN_CATEGORIES = tuple(name for name in CATEGORIES if name not in HELD_OUT_CATEGORIES)
SEEN_DEFECTS = tuple(name for name in DEFECTS if name not in HELD_OUT_DEFECTS)
OBJECTS = ("button", "tile")  # only they can miss a part

SIZE, PATCH = 120, 8
GRID = SIZE // PATCH
GOOD_SAMPLES, DEFECT_SAMPLES = 240, 160  # of each category, and of each of its defects

# A batch: groups of one (real or made-up) category each; the first images of a group are normal references.
GROUPS, REFERENCES, QUERIES = 4, 2, 4
WINDOWS = {2: 16, 3: 12}  # windows per image: side -> number; the same places throughout a group
LARGE, LARGE_WINDOWS = (4, 5, 6), 1
# The share of groups that are not plain, once half of the training is over, and of which style they then are. From the
# start they would keep anything from being learnt for hundreds of steps.
STYLES, VARIETY, VARIANTS = ("plain", "recoloured", "mixed", "noise"), 0.55, (0.6, 0.2, 0.2)

WHOLE_IMAGES = 0.25  # the part of the training before the first window: twice as fast, and windows learn from it
TEMPERATURE, FIRST_TEMPERATURE, COOLED = 0.01, 0.1, 0.6  # it falls in this part of the training
PROMPT_TEMPERATURE = 0.05
SMOOTHING = 0.02
CLEARLY = 0.06  # share of a window or patch that a defect must cover to count fully
NEAR, STEEP = 0.4, 0.08  # roots of association scores: where normal and anomalous part, and how sharply

LEARNING_RATE, WARM_UP, WEIGHT_DECAY = 2.5e-3, 100, 0.05
FAINT = 0.02  # variance of a patch's component below which it is not made louder
AVERAGE = 0.997  # of the weights, per step
CHECKPOINT_EVERY, LOG_EVERY = 250, 25

# A word that stays unknown: its embedding is zero, as that of every word without a place in training. It stands for
# categories without a name and defects of no particular kind.
UNKNOWN = ("thing", "thing thing")
PROMPTS = OmegaConf.load(Path(__file__).resolve().parents[1] / "conf" / "prompts" / "winclip.yaml")
DEFECT_STATES = ("[c] with a [d]", "[c] with [d]", "a [d] on the [c]", "[c] with a [d] defect", "[d] [c]", "[d]")

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]


# --- samples -------------------------------------------------------------------------------------------------------


def _sample(job: tuple[str, str, int]) -> tuple[Pixels, Pixels]:
    """A `fit` sample as the model sees it: image [120, 120, 3], and the mask's coverage [120, 120] in 0–255."""
    torch.set_num_threads(1)
    image, mask = make_sample(job[0], job[1], "fit", job[2])
    small = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    covered = Image.fromarray(mask.astype(np.uint8) * 255).resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(small), np.asarray(covered)


@dataclass
class Samples:
    """All samples of a training.

    images    [n, 120, 120, 3];  coverage [n, 120, 120] in 0–255
    place     (category, defect) -> its rows
    """

    images: Pixels
    coverage: Pixels
    place: dict[tuple[str, str], range]


def jobs_of(good: int, defective: int) -> list[tuple[str, str, int]]:
    """(category, defect, index) of each sample: every seen defect on every seen category that can have it."""
    jobs = []
    for category in SEEN_CATEGORIES:
        jobs += [(category, GOOD, index) for index in range(good)]
        for defect in SEEN_DEFECTS:
            if defect != "missing_part" or category in OBJECTS:
                jobs += [(category, defect, index) for index in range(defective)]
    return jobs


def make_samples(jobs: list[tuple[str, str, int]], folder: Path, workers: int) -> Samples:
    """The samples of all jobs, kept in `folder` between runs."""
    name = hashlib.sha256(repr((VERSION, jobs)).encode()).hexdigest()[:12]
    images_file, coverage_file = folder / f"images-{name}.npy", folder / f"coverage-{name}.npy"
    if not coverage_file.exists():
        if workers:
            with get_context("spawn").Pool(workers) as pool:
                made = pool.map(_sample, jobs, chunksize=16)
        else:
            made = [_sample(job) for job in jobs]
        for file, arrays in ((images_file, [image for image, _ in made]), (coverage_file, [part for _, part in made])):
            np.save(file.with_suffix(".part.npy"), np.stack(arrays))
            file.with_suffix(".part.npy").replace(file)
    place: dict[tuple[str, str], range] = {}
    for row, (category, defect, _) in enumerate(jobs):
        start = place[category, defect].start if (category, defect) in place else row
        place[category, defect] = range(start, row + 1)
    return Samples(np.load(images_file, mmap_mode="r"), np.load(coverage_file, mmap_mode="r"), place)


# --- augmentation: categories that do not exist, and defects of no particular kind -----------------------------------


def noise(random: np.random.Generator, cell_y: float, cell_x: float) -> Floats:
    """Smooth noise [120, 120] in about (−1, 1), from random values on a lattice of cells that size."""
    lattice = random.uniform(-1, 1, (int(SIZE / cell_y) + 2, int(SIZE / cell_x) + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(lattice).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


@dataclass
class Look:
    """What the images of a group have in common: colours and orientation."""

    matrix: Floats
    shift: Floats
    gamma: float
    turns: int
    mirrored: bool

    def __call__(self, image: Floats) -> Floats:
        recoloured = np.clip(image @ self.matrix + self.shift, 0, 255)
        if self.gamma != 1:
            recoloured = 255 * (recoloured / 255) ** np.float32(self.gamma)
        return recoloured

    def oriented(self, array: Floats) -> Floats:
        turned = np.rot90(array, self.turns)
        return turned[:, ::-1] if self.mirrored else turned


def draw_look(random: np.random.Generator, strength: float) -> Look:
    """strength 0 leaves colours nearly alone; 1 mixes channels, inverts some and moves contrast and brightness."""
    mixing = random.dirichlet(np.full(3, 0.7), 3).T if random.random() < strength else np.eye(3)
    gain = random.uniform(1 - 0.4 * strength, 1 + 0.3 * strength, 3)
    if random.random() < 0.3 * strength:
        gain = -gain
    matrix = mixing * gain
    # Keep mid-grey where it is, then move it a little.
    shift = 128 - 128 * matrix.sum(0) + random.uniform(-45, 45) * strength + random.uniform(-20, 20, 3) * strength
    return Look(
        matrix=matrix.astype(np.float32),
        shift=shift.astype(np.float32),
        gamma=float(np.exp(random.uniform(-0.4, 0.4) * strength)),
        turns=int(random.integers(4)) if random.random() < strength else 0,
        mirrored=bool(random.random() < 0.5 * strength),
    )


def noise_texture(random: np.random.Generator, cells: Floats, palette: Floats) -> Floats:
    """A made-up surface: noise of several sizes through three colours."""
    level = sum(noise(random, cell, cell) for cell in cells) / math.sqrt(len(cells))
    level = np.clip(level + 0.5, 0, 1)[..., None] * 2
    return np.where(
        level < 1, palette[0] + (palette[1] - palette[0]) * level, palette[1] + (palette[2] - palette[1]) * (level - 1)
    )


def random_shape(random: np.random.Generator) -> Floats:
    """A region [120, 120], 1 inside: a rough disc, a rectangle, a straight bar of even width or a few specks."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    y0, x0 = random.uniform(8, SIZE - 8, 2)
    angle = random.uniform(0, np.pi)
    u, v = np.cos(angle) * (x - x0) + np.sin(angle) * (y - y0), np.cos(angle) * (y - y0) - np.sin(angle) * (x - x0)
    kind = random.choice(4, p=(0.45, 0.15, 0.2, 0.2))
    if kind == 0:
        flat, radius = random.uniform(0.7, 1.0), random.uniform(6, 16)
        depth = 1 - np.hypot(u * flat, v / flat) / radius + random.uniform(0, 0.5) * noise(random, radius, radius)
        return np.clip(depth * radius, 0, 1)
    if kind == 1:
        return np.clip(np.minimum(random.uniform(5, 14) - np.abs(u), random.uniform(5, 14) - np.abs(v)), 0, 1)
    if kind == 2:
        return np.clip(np.minimum(random.uniform(15, 45) - np.abs(u), random.uniform(0.8, 3) - np.abs(v)), 0, 1)
    region = np.zeros((SIZE, SIZE), np.float32)
    for _ in range(random.integers(3, 9)):
        dy, dx = random.normal(0, 10, 2)
        region = np.maximum(region, random.uniform(1.2, 4) - np.hypot(y - y0 - dy, x - x0 - dx))
    return np.clip(region, 0, 1)


def damage(random: np.random.Generator, image: Floats, other: Floats) -> tuple[Floats, Floats]:
    """Something in an image that does not belong there, and its region: of another image, of another place of the
    same one, a colour, noise, or a change of tone."""
    for _ in range(8):
        region = random_shape(random)
        kind = random.integers(6)
        if kind == 0:
            content = other
        elif kind == 1:
            content = np.rot90(image, int(random.integers(1, 4)))
        elif kind == 2:
            content = np.broadcast_to(random.uniform(0, 255, 3).astype(np.float32), image.shape)
        elif kind == 3:
            content = (
                128
                + random.uniform(30, 110) * noise(random, *random.uniform(1.5, 8, 2))[..., None]
                + random.uniform(-60, 60, 3)
            )
        elif kind == 4:
            content = (
                image * random.uniform(0.25, 0.75, 3)
                if random.random() < 0.6
                else 255 - (255 - image) * random.uniform(0.25, 0.75, 3)
            )
        else:
            content = image[..., random.permutation(3)] + random.uniform(-40, 40)
        weight = region[..., None] * random.uniform(0.5, 1)
        damaged = np.clip(image + weight * (content - image), 0, 255).astype(np.float32)
        inside = region > 0.5
        if 0.004 < inside.mean() < 0.08 and np.abs(damaged - image)[inside].max(-1).mean() > 20:
            break
    return damaged, region


@dataclass
class Batch:
    """Images of GROUPS · (REFERENCES + QUERIES), group after group, references first.

    images    uint8 [n, 120, 120, 3];  coverage float [n, 120, 120] in 0–1
    kind      [n] 0 good, 1… one of SEEN_DEFECTS, last one of no particular kind
    windows   side -> [groups, number, side²] patch indices
    tokens    [groups, prompts, L] of `draw_prompts`
    """

    images: Tensor
    coverage: Tensor
    kind: Tensor
    windows: dict[int, Tensor]
    tokens: Tensor


class Batches(Dataset[Batch]):
    """Batch number `step` of a seed, whoever makes it and in whatever order."""

    def __init__(self, samples: Samples, seed: int, steps: int) -> None:
        self.samples, self.seed, self.steps = samples, seed, steps
        self.tokenizer = open_clip.get_tokenizer(ARCHITECTURE)
        self.categories = sorted({category for category, _ in samples.place})

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        random = np.random.default_rng([self.seed, step])
        variety = VARIETY * min(1.0, max(0.0, (step / self.steps - 0.1) / 0.4))
        groups = [
            self._group(random, str(category), variety) for category in random.permutation(self.categories)[:GROUPS]
        ]
        images, coverage, kinds, words = zip(*groups, strict=True)
        coverage_patches = [_patches(part).max(0) for part in coverage]
        large = int(random.choice(LARGE))
        windows = {
            side: torch.stack([_draw_windows(random, part, side, number) for part in coverage_patches])
            for side, number in {**WINDOWS, large: LARGE_WINDOWS}.items()
        }
        return Batch(
            images=torch.from_numpy(np.concatenate(images)),
            coverage=torch.from_numpy(np.concatenate(coverage)),
            kind=torch.tensor(np.concatenate(kinds)),
            windows=windows,
            tokens=torch.stack([draw_prompts(random, self.tokenizer, word) for word in words]),
        )

    def _pick(self, random: np.random.Generator, category: str, defect: str) -> tuple[Floats, Floats]:
        rows = self.samples.place[category, defect]
        row = rows[int(random.integers(len(rows)))]
        return self.samples.images[row].astype(np.float32), self.samples.coverage[row].astype(np.float32) / 255

    def _group(
        self, random: np.random.Generator, category: str, variety: float
    ) -> tuple[Pixels, Floats, NDArray[np.int64], str | None]:
        """Images, coverage and kinds of one group, and the word for its category; None where there is none."""
        style = str(random.choice(STYLES, p=(1 - variety, *(variety * np.array(VARIANTS)))))
        look = draw_look(random, 0.12 if style == "plain" else random.uniform(0.2, 0.9))
        second = str(random.choice(self.categories))
        second_look, share = draw_look(random, 1.0), random.uniform(0.25, 0.5)
        cells = np.exp(random.uniform(np.log(2), np.log(30), 3))
        palette = random.uniform(20, 235, (3, 3)).astype(np.float32)
        defects = [defect for defect in SEEN_DEFECTS if (category, defect) in self.samples.place]

        images, coverage, kinds = [], [], []
        for place in range(REFERENCES + QUERIES):
            good = place < REFERENCES + 1
            unspecific = not good and (style == "noise" or random.random() < 0.3)
            defect = GOOD if good or unspecific else str(random.choice(defects))
            image, covered = self._pick(random, category, defect)
            if style == "noise":
                image = noise_texture(random, cells, palette)
            image, covered = look.oriented(look(image)), look.oriented(covered)
            if style == "mixed":
                image = image + share * (1 - covered[..., None]) * (
                    second_look(self._pick(random, second, GOOD)[0]) - image
                )
            if unspecific:
                other = look(self._pick(random, str(random.choice(self.categories)), GOOD)[0])
                image, covered = damage(random, image, other)
            image = image * random.uniform(0.94, 1.06) + random.normal(0, 1.5, (SIZE, SIZE, 1))
            images.append(np.clip(image, 0, 255).astype(np.uint8))
            coverage.append(np.ascontiguousarray(covered, np.float32))
            kinds.append(len(SEEN_DEFECTS) + 1 if unspecific else 0 if good else 1 + SEEN_DEFECTS.index(defect))
        named = random.random() < {"plain": 0.7, "recoloured": 0.3}.get(style, 0)
        return np.stack(images), np.stack(coverage), np.array(kinds), category if named else None


def _patches(coverage: Floats) -> Floats:
    """[n, 120, 120] -> the mean over each patch [n, 15, 15]."""
    return coverage.reshape(-1, GRID, PATCH, GRID, PATCH).mean((2, 4))


def _draw_windows(random: np.random.Generator, covered: Floats, side: int, number: int) -> Tensor:
    """Patches [number, side²] of windows of a group: half of them where some image of the group is damaged."""
    patches = window_patches(GRID, side)
    hit = np.flatnonzero(covered.reshape(-1)[patches.numpy()].max(1) > CLEARLY)
    chosen = random.choice(len(patches), number, replace=False)
    if len(hit):
        chosen[: number // 2] = random.choice(hit, number // 2)
    return patches[torch.from_numpy(chosen)]


# --- prompts -------------------------------------------------------------------------------------------------------

PROMPTS_PER_SIDE = 5


def draw_prompts(random: np.random.Generator, tokenizer: Any, word: str | None) -> Tensor:
    """Token ids of PROMPTS_PER_SIDE normal prompts, as many anomalous ones, and one of each defect.

    A category without a word, and damage of no particular kind, are called by one or two unknown words.
    """
    name = word or str(random.choice(UNKNOWN))
    states = [
        *random.choice(PROMPTS.normal_states, PROMPTS_PER_SIDE, replace=False),
        *random.choice(PROMPTS.anomalous_states, PROMPTS_PER_SIDE, replace=True),
    ]
    states += [str(random.choice(DEFECT_STATES)).replace("[d]", defect.replace("_", " ")) for defect in SEEN_DEFECTS]
    states.append(str(random.choice(DEFECT_STATES)).replace("[d]", str(random.choice(UNKNOWN))))
    # Both sides in the same templates, so that these cancel in their difference.
    templates = list(random.choice(PROMPTS.templates, PROMPTS_PER_SIDE, replace=False))
    templates = 2 * templates + list(random.choice(PROMPTS.templates, len(states) - len(2 * templates)))
    prompts = [
        str(template).replace("[s]", str(state).replace("[c]", name))
        for template, state in zip(templates, states, strict=True)
    ]
    return tokenizer(prompts)


# --- the model in training -------------------------------------------------------------------------------------------


def attend(block: Any, x: Tensor, queries: slice) -> Tensor:
    """One block of open_clip on sequences [N, L, width]; only the rows of `queries` are computed."""
    attention = block.attn
    qkv = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias).float()
    query, key, value = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
    with torch.autocast("cpu", enabled=False):  # unlike everything else, attention is slower in bfloat16 on a CPU
        attended = F.scaled_dot_product_attention(query[:, :, queries], key, value).transpose(1, 2).flatten(2)
    x = x[:, queries] + attention.out_proj(attended)
    return x + block.mlp(block.ln_2(x))


def project(visual: Any, x: Tensor) -> Tensor:
    """Unit embeddings [..., E] of tokens [..., width] that left the last block."""
    with torch.autocast("cpu", enabled=False):
        return F.normalize(visual.ln_post(x.float()) @ visual.proj, dim=-1)


def embed_images(visual: Any, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Grid tokens [B, 1+g², width]; unit embeddings [B, 1+g², E], of the image and of each patch in its surroundings;
    unit patch features [B, g², width]."""
    x = grid_tokens = visual._embeds(pixels)
    for block in visual.transformer.resblocks:
        x = attend(block, x, slice(None))
    return grid_tokens, project(visual, x), F.normalize(x[:, 1:].float(), dim=-1)


def embed_windows(visual: Any, grid_tokens: Tensor, windows: Tensor) -> Tensor:
    """Unit embeddings [B, n, E] of windows [groups, n, s²] of images that are ordered by group."""
    tokens = F.pad(windows + 1, (1, 0))  # the class token first
    grouped = grid_tokens.unflatten(0, (len(windows), -1))
    x = torch.stack([images[:, part] for images, part in zip(grouped, tokens, strict=True)]).flatten(0, 2)
    *early, last = visual.transformer.resblocks
    for block in early:
        x = attend(block, x, slice(None))
    return project(visual, attend(last, x, slice(0, 1))[:, 0]).unflatten(0, (len(grid_tokens), -1))


def normalised(images: Tensor) -> Tensor:
    """uint8 [n, 120, 120, 3] -> [n, 3, 120, 120] as open_clip's preprocessing gives it."""
    return images.permute(0, 3, 1, 2).float().div(255).sub(MEAN).div(STD)


def balanced(logits: Tensor, covered: Tensor) -> Tensor:
    """Cross-entropy of logits against where anything is covered, both classes weighing one half.

    A trace of a defect counts as anomalous in proportion, up to CLEARLY; it is never counted as normal.
    """
    positive = (covered / CLEARLY).clamp(max=1)
    negative = (covered == 0).float()
    on_positive = F.softplus(-logits) * (1 - SMOOTHING) + F.softplus(logits) * SMOOTHING
    on_negative = F.softplus(logits) * (1 - SMOOTHING) + F.softplus(-logits) * SMOOTHING
    return (
        (on_positive * positive).sum() / positive.sum().clamp(min=1)
        + (on_negative * negative).sum() / negative.sum().clamp(min=1)
    ) / 2


def association_logits(features: Tensor) -> Tensor:
    """Of unit features [B, n, D]: those of each group's queries against its references, [groups, queries, n]."""
    grouped = features.unflatten(0, (GROUPS, -1))
    references, queries = grouped[:, :REFERENCES].flatten(1, 2), grouped[:, REFERENCES:]
    cosine = queries.flatten(1, 2) @ references.transpose(1, 2)
    # The root, half the distance on the sphere, has a gradient where features are still nearly the same.
    distance = ((1 - cosine.amax(-1)) / 2).clamp(min=1e-6).sqrt()
    return (distance - NEAR).unflatten(1, (QUERIES, -1)) / STEEP


def text_embeddings(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of prompts [groups, n, L]: unit prototypes normal and anomalous [groups, 2, E]; one prompt of every kind, normal
    first [groups, kinds, E]; and the loss of telling states and kinds apart, whatever the category."""
    each = F.normalize(model.encode_text(tokens.flatten(0, 1)).float(), dim=-1).unflatten(0, tokens.shape[:2])
    states, defects = each[:, : 2 * PROMPTS_PER_SIDE].unflatten(1, (2, -1)), each[:, 2 * PROMPTS_PER_SIDE :]
    sides = F.normalize(states.mean(2), dim=-1)
    kinds = torch.cat([sides[:, :1], defects], 1)
    loss = torch.zeros(())
    for prompts in (states.transpose(1, 2).flatten(0, 1), kinds):
        prototypes = F.normalize(prompts.mean(0), dim=-1)
        truth = torch.arange(len(prototypes)).repeat(len(prompts))
        logits = prompts.flatten(0, 1) @ prototypes.T / PROMPT_TEMPERATURE
        loss = loss + F.cross_entropy(logits, truth, label_smoothing=SMOOTHING)
    return sides, kinds, loss


def losses(model: Any, batch: Batch, temperature: float, with_windows: bool = True) -> dict[str, Tensor]:
    """Every term of the objective, by name; those of windows and of the kind of a defect only `with_windows`."""
    pixels = normalised(batch.images)
    patches = batch.coverage.unflatten(1, (GRID, PATCH)).unflatten(3, (GRID, PATCH)).mean((2, 4)).flatten(1)
    damaged = (batch.kind > 0).float()
    with torch.autocast("cpu", torch.bfloat16):
        grid_tokens, embeddings, patch_features = embed_images(model.visual, pixels)
        windows = (
            {side: embed_windows(model.visual, grid_tokens, part) for side, part in batch.windows.items()}
            if with_windows
            else {}
        )
    image = embeddings[:, 0]
    sides, kinds, prompt_loss = text_embeddings(model, batch.tokens)
    # Images follow the prompts, not the other way round: at this temperature the quickest way to less loss is to
    # make all prompts the same, from where nothing is learnt.
    sides, kinds = sides.detach(), kinds.detach()
    direction = (sides[:, 1] - sides[:, 0]) / temperature
    per_image = REFERENCES + QUERIES
    typed = kinds.repeat_interleave(per_image, 0) / temperature
    toward = direction.repeat_interleave(per_image, 0)

    terms = {
        "prompts": prompt_loss,
        "patch": balanced((embeddings[:, 1:] @ toward[..., None])[..., 0], patches),
        "image": balanced((image * toward).sum(-1), damaged),
        "patch_association": balanced(
            association_logits(patch_features), patches.unflatten(0, (GROUPS, -1))[:, REFERENCES:]
        ),
    }
    if with_windows:
        terms["kind"] = F.cross_entropy((typed @ image[..., None])[..., 0], batch.kind, label_smoothing=SMOOTHING)
    for side, embeddings in windows.items():
        places = batch.windows[side].repeat_interleave(per_image, 0)
        covered = patches.gather(1, places.flatten(1)).unflatten(1, places.shape[1:]).mean(-1)
        name = str(side) if side in WINDOWS else "large"
        terms[f"window_{name}"] = balanced((embeddings @ toward[..., None])[..., 0], covered)
        if side in WINDOWS:
            hit = covered > CLEARLY
            kind = batch.kind[:, None].expand_as(hit)[hit]
            logits = (embeddings @ typed.transpose(1, 2))[hit]
            terms[f"window_kind_{name}"] = F.cross_entropy(logits, kind, label_smoothing=SMOOTHING)
            terms[f"window_association_{name}"] = balanced(
                association_logits(embeddings), covered.unflatten(0, (GROUPS, -1))[:, REFERENCES:]
            )
    return terms


WEIGHTS = {
    "prompts": 1.0, "patch": 1.0, "image": 1.0, "kind": 0.3, "patch_association": 1.0,
    "window_2": 1.0, "window_3": 1.0, "window_large": 0.3, "window_kind_2": 0.1, "window_kind_3": 0.1,
    "window_association_2": 0.5, "window_association_3": 0.5,
}  # fmt: skip
MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN)[:, None, None]
STD = torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None]


# --- training ------------------------------------------------------------------------------------------------------


def known_tokens(tokenizer: Any) -> Tensor:
    """Ids of every token that a training prompt can hold, but for the unknown word."""
    words = [*PROMPTS.normal_states, *PROMPTS.anomalous_states, *DEFECT_STATES, *PROMPTS.templates]
    words += [*SEEN_CATEGORIES, *(defect.replace("_", " ") for defect in SEEN_DEFECTS)]
    texts = [word.replace("[s]", " ").replace("[c]", " ").replace("[d]", " ") for word in words]
    return tokenizer([*texts, *(f"a {word}." for word in SEEN_CATEGORIES)]).unique()


def make_model(seed: int) -> Any:
    """The untrained model; rows of its token table that no training prompt reads are zero and stay so."""
    torch.manual_seed(seed)
    model = open_clip.create_model(ARCHITECTURE, pretrained=None, pretrained_text=False)
    known = known_tokens(open_clip.get_tokenizer(ARCHITECTURE))
    rows = torch.zeros(model.vocab_size, 1)
    rows[known] = 1
    with torch.no_grad():
        model.logit_scale.fill_(math.log(1 / TEMPERATURE))
        model.token_embedding.weight.mul_(rows)
    model.logit_scale.requires_grad_(False)
    model.token_embedding.weight.register_hook(lambda gradient: gradient * rows)
    return model


def whiten(model: Any, batches: Sequence[Batch]) -> None:
    """Start the patch embedding as the principal components of patches, all of equal variance but the faintest.

    From random filters, which see little but brightness, hundreds of steps pass before anything else is learnt.
    """
    pixels = torch.cat([normalised(batch.images) for batch in batches])
    patches = F.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)
    variance, components = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (components / (variance + FAINT).sqrt()).flip(1).T[: model.visual.conv1.out_channels]
    with torch.no_grad():
        model.visual.conv1.weight.copy_(filters.reshape(model.visual.conv1.weight.shape))
        model.visual.positional_embedding.mul_(0.5 / model.visual.positional_embedding.std())


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warm = min(1.0, (step + 1) / WARM_UP)
    return LEARNING_RATE * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def temperature(step: int, steps: int) -> float:
    """From FIRST_TEMPERATURE to TEMPERATURE in equal ratios, then constant."""
    return TEMPERATURE * (FIRST_TEMPERATURE / TEMPERATURE) ** max(0.0, 1 - step / (COOLED * steps))


def train(seed: int, steps: int, out: Path, samples: Samples, workers: int) -> None:
    """Train to the end, continuing from out/checkpoint.pt where there is one."""
    model = make_model(seed)
    data = Batches(samples, seed, steps)
    whiten(model, [data[step] for step in range(8)])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    average = {name: value.clone() for name, value in model.state_dict().items()}
    rows: list[dict[str, float]] = []
    start, checkpoint = 0, out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if (state["seed"], state["steps"]) != (seed, steps):
            raise SystemExit(f"{checkpoint} is of another seed or length: choose another --out or delete it")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, rows, start = state["average"], state["rows"], state["step"]

    batches = DataLoader(
        data, batch_size=None, sampler=range(start, steps), num_workers=workers,
        prefetch_factor=4 if workers else None,
    )  # fmt: skip
    model.train()
    began, recent = time.perf_counter(), dict.fromkeys(("total", *WEIGHTS), 0.0)
    for step, batch in enumerate(batches, start):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        terms = losses(model, batch, temperature(step, steps), step >= WHOLE_IMAGES * steps)
        total = torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            keep = min(AVERAGE, (1 + step) / (10 + step))
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - keep)
        for name, value in {"total": total, **terms}.items():
            recent[name] += value.item() / LOG_EVERY
        if (step + 1) % LOG_EVERY == 0:
            rows.append({"step": step + 1, "learning_rate": learning_rate(step, steps), **recent})
            pace = (time.perf_counter() - began) / (step + 1 - start)
            print(
                f"{step + 1}/{steps} {pace:.3f} s/step  " + "  ".join(f"{k} {v:.3f}" for k, v in recent.items()),
                flush=True,
            )
            recent = dict.fromkeys(recent, 0.0)
        if (step + 1) % CHECKPOINT_EVERY == 0 and step + 1 < steps:
            state = {"seed": seed, "steps": steps, "step": step + 1, "model": model.state_dict(), "average": average,
                     "optimizer": optimizer.state_dict(), "rows": rows}  # fmt: skip
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            write_log(rows, out)
    write_log(rows, out)
    weights = {name: value.half().contiguous() for name, value in average.items()}
    save_file(weights, out / "weights.safetensors")
    checkpoint.unlink(missing_ok=True)
    print("sha256", hashlib.sha256((out / "weights.safetensors").read_bytes()).hexdigest())


def write_log(rows: Sequence[dict[str, float]], out: Path) -> None:
    """log.csv, and curves.svg with every term on a common scale."""
    if not rows:
        return
    with (out / "log.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    (out / "curves.svg").write_text("".join(curves(rows)))


def curves(rows: Sequence[dict[str, float]]) -> Iterator[str]:
    """The loss terms over the steps as an SVG picture; a term begins where it first counts."""
    width, height, names = 720, 400, list(WEIGHTS)
    top = max(row[name] for row in rows for name in names)
    last = rows[-1]["step"]
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-50 -20 {width + 230} {height + 70}"'
    yield ' font-family="sans-serif" font-size="12">'
    yield f'<path d="M0 0V{height}H{width}" fill="none" stroke="#444"/>'
    for part in range(5):
        yield f'<text x="-8" y="{height * (1 - part / 4) + 4:.0f}" text-anchor="end">{top * part / 4:.2f}</text>'
        yield f'<text x="{width * part / 4:.0f}" y="{height + 18}" text-anchor="middle">{last * part / 4:.0f}</text>'
    yield f'<text x="{width / 2}" y="{height + 38}" text-anchor="middle">step</text>'
    for number, name in enumerate(names):
        colour = f"hsl({number * 360 // len(names)},65%,42%)"
        points = " ".join(
            f"{row['step'] / last * width:.1f},{height * (1 - row[name] / top):.1f}" for row in rows if row[name]
        )
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        yield f'<text x="{width + 8}" y="{20 + 16 * number}" fill="{colour}">{name.replace("_", " ")}</text>'
    yield "</svg>\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights, the log and the curves")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--workers", type=int, default=1, help="processes that make data; no influence on the result")
    parser.add_argument("--samples", type=Path, help="folder that keeps the samples between runs (default: OUT)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    folder = arguments.samples or arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    samples = make_samples(jobs_of(GOOD_SAMPLES, DEFECT_SAMPLES), folder, arguments.workers)
    train(arguments.seed, arguments.steps, arguments.out, samples, arguments.workers)


if __name__ == "__main__":
    main()
