"""How closely `protocol=anomalib` agrees with anomalib itself, on some images and with the same weights.

    make parity                                  # builds .parity first, an environment of anomalib's own
    make parity IMAGES=/data/mvtec/hazelnut      # one category in MVTec's layout instead of generated images

Both sides start from the files: anomalib reads, resizes and encodes them by its own code (scripts/parity_anomalib.py),
this project by a run like any other, whose features, scores and maps are then read from its store and its results. The
weights are random but seeded, with more contrast than freshly drawn ones have, so that nothing is downloaded. Prints
a markdown table of the largest differences; the exit code is 1 where one is beyond its tolerance.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
import yaml
from numpy.typing import NDArray
from tabulate import tabulate

from winclip_bench.clip.backbone import find_weights, load_backbone
from winclip_bench.clip.prompts import compose
from winclip_bench.clip.tiles import resize_mask
from winclip_bench.data import Category, Sample, file_sha256, open_dataset, read_image, read_mask
from winclip_bench.data.demo import write_demo
from winclip_bench.encoding import Encoder, ImageFile, Preprocessing
from winclip_bench.methods.winclip import prototypes

REPOSITORY = Path(__file__).resolve().parents[1]
ARCHITECTURE = "ViT-B-16-plus-240"
SHOTS = 4
SCALES = (2, 3)
TOLERANCE = 1e-5

Arrays = dict[str, NDArray[np.generic]]


def main() -> int:
    """Compare both sides; 0 if all differences are within tolerance."""
    parser = argparse.ArgumentParser(description="Compare protocol=anomalib with anomalib itself.")
    parser.add_argument("--images", type=Path, help="a category in MVTec's layout; default: one of the demo's")
    parser.add_argument("--count", type=int, default=6, help="test images to compare, spread over all (default: 6)")
    parser.add_argument("--environment", type=Path, default=REPOSITORY / ".parity", help="where anomalib is installed")
    options = parser.parse_args()
    work = (options.environment / "work").resolve()
    work.mkdir(parents=True, exist_ok=True)
    images = options.images or write_demo(work / "demo") / "washer"
    category = copy_some(images, work / "images" / images.resolve().name, options.count)
    weights = seeded_weights(work / f"{ARCHITECTURE}-seed0.pt")

    theirs = run_anomalib(category, weights, options.environment / "bin" / "python", work)
    ours = run_here(category, weights, work)
    rows = [(name, largest_difference(ours[name], theirs[name]), spread(theirs[name])) for name in ours]
    print(f"{len(category.test)} images of {category.name}, {SHOTS} references, {ARCHITECTURE} with seeded weights\n")
    table = [
        (name, f"{difference:.1e}", f"{low:.3g} to {high:.3g}", "yes" if difference <= TOLERANCE else "NO")
        for name, difference, (low, high) in rows
    ]
    print(tabulate(table, ("", "largest difference", "range", f"within {TOLERANCE:.0e}"), tablefmt="pipe"))
    return int(any(difference > TOLERANCE for _, difference, _ in rows))


def copy_some(source: Path, target: Path, count: int) -> Category:
    """A category of `count` test images, spread over all in the order of their paths, and the first references."""
    shutil.rmtree(target, ignore_errors=True)
    (category,) = open_dataset("folder", source.resolve(), "parity").categories
    step = max(1, len(category.test) / count)
    chosen = [category.test[int(index * step)] for index in range(min(count, len(category.test)))]
    folder = category.test[0].image.parents[2]
    for sample in (*chosen, *category.train[:SHOTS]):
        for file in filter(None, (sample.image, *sample.masks)):
            copy = target / file.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    (copied,) = open_dataset("folder", target, "parity").categories
    return copied


def seeded_weights(path: Path) -> Path:
    """A checkpoint of random weights, drawn once.

    Freshly drawn weights make nearly the same of every image and every prompt; larger ones, and vectors that are not 0
    or 1, make differences between images, windows and prompts that a wrong step would show in.
    """
    if path.exists():
        return path
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = open_clip.create_model(ARCHITECTURE, pretrained=None).state_dict()
        for name, value in state.items():
            if value.ndim == 1:
                value.add_(0.2 * torch.randn_like(value))
            elif name == "token_embedding.weight":
                value.mul_(30)
            elif name.startswith("transformer.") and "attn" in name:
                value.mul_(5)
            elif name.startswith("visual.transformer."):
                value.mul_(3)
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)
    return path


def run_anomalib(category: Category, weights: Path, python: Path, work: Path) -> Arrays:
    """Embeddings, scores, maps and masks by anomalib, embeddings normalised."""
    job, output = work / "job.json", work / "anomalib.npz"
    content = {
        "weights": str(weights),
        "class_name": category.name,
        "images": [str(sample.image) for sample in category.test],
        "masks": [str(sample.masks[0]) if sample.masks else None for sample in category.test],
        "references": [str(sample.image) for sample in category.train],
    }
    job.write_text(json.dumps(content), encoding="utf-8")
    script = REPOSITORY / "scripts" / "parity_anomalib.py"
    subprocess.run([python, "-W", "ignore", script, job, output], check=True)
    with np.load(output) as found:
        results: Arrays = dict(found)
    for name in ("image", "windows-2", "windows-3", "patches", "text"):
        results[name] = F.normalize(torch.from_numpy(results[name]), dim=-1).numpy()
    return results


def run_here(category: Category, weights: Path, work: Path) -> Arrays:
    """The same by this project, under the names that they have there."""
    results: Arrays = {}
    for k in (0, len(category.train)):
        results |= scores_and_maps(category, weights, k, work)

    found = find_weights(ARCHITECTURE, str(weights))
    backbone = load_backbone(found)
    encoder = Encoder(lambda: backbone, found, Preprocessing("squash", 1.0, "tensor"), "fp32", work / "cache")
    files = [ImageFile(sample.image, file_sha256(sample.image)) for sample in category.test]
    encoder.images(files, SCALES, batch_size=None, workers=2)  # stored by the run
    for kind in ("image", "windows-2", "windows-3"):
        results[kind] = encoder.features(files, kind).numpy()
    ensemble = yaml.safe_load((REPOSITORY / "conf" / "prompts" / "accurate_winclip.yaml").read_text(encoding="utf-8"))
    sides = [
        compose(category.name, ensemble[f"{side}_states"], ensemble["templates"]) for side in ("normal", "anomalous")
    ]
    results["text"] = prototypes(*map(encoder.prompts, sides), "mean_of_raw").numpy()
    patches = backbone.normalise_patches(encoder.features(files, "patches"))
    results["patches"] = F.normalize(patches, dim=-1).numpy()
    for index, sample in enumerate(category.test):
        if sample.masks:
            mask = read_mask(sample.masks[0], read_image(sample.image).size)
            results[f"mask_{index}"] = resize_mask(mask, (240, 240), "nearest_floor")
    return results


def one_mask(sample: Sample) -> bool:
    """Whether there is a mask that both sides take: anomalib knows no union of several."""
    return len(sample.masks) == 1


def scores_and_maps(category: Category, weights: Path, k: int, work: Path) -> Arrays:
    """What a run of the command line leaves for k references."""
    results = work / f"results-k{k}"
    shutil.rmtree(results, ignore_errors=True)
    listed = results.with_suffix(".txt")
    listed.write_text("".join(f"{sample.image}\n" for sample in category.train), encoding="utf-8")
    settings = {
        "dataset": "folder", "dataset.root": category.test[0].image.parents[2], "protocol": "anomalib",
        "backbone": "vit_b_16_plus_240",
        "backbone.pretrained": weights, "k_shot": k, "results_dir": results, "runtime.cache_dir": work / "cache",
        "save_maps": "true", "runtime.device": "cpu",
    }  # fmt: skip
    if k:
        settings["references.file"] = listed
    arguments = [f"{key}={value}" for key, value in settings.items()]
    # Its exit code also complains of test images that are all of one kind, which does not matter here.
    subprocess.run([sys.executable, REPOSITORY / "run.py", *arguments], check=False, stdout=subprocess.DEVNULL)
    (table,) = results.glob("records/*/*/*.scores.csv")
    (archive,) = results.glob("maps/*/*.npz")
    with table.open(encoding="utf-8", newline="") as file:
        scores = {row["path"]: float(row["image_score"]) for row in csv.DictReader(file)}
    with np.load(archive) as maps:
        return {
            f"scores_k{k}": np.array([scores[sample.key] for sample in category.test]),
            f"maps_k{k}": np.stack([maps[sample.key] for sample in category.test]),
        }


def largest_difference(ours: NDArray[np.generic], theirs: NDArray[np.generic]) -> float:
    """Of any element; infinite where the shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max())


def spread(values: NDArray[np.generic]) -> tuple[float, float]:
    """Smallest and largest element."""
    return float(values.astype(np.float64).min()), float(values.astype(np.float64).max())


if __name__ == "__main__":
    sys.exit(main())
