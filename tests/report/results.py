"""Results folders made up for the page: records, scores, curves and pictures, without a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from winclip_bench import pictures, records
from winclip_bench.data import Sample, file_sha256
from winclip_bench.metrics import pixel_metrics, sample_metrics
from winclip_bench.metrics.points import pixel_points
from winclip_bench.records import Record, Score

SIDE = 24


def config(dataset: str, k: int = 0, seed: int = 0, prompts: str = "winclip") -> dict[str, Any]:
    """What a record has to say of its configuration."""
    return {
        "dataset": {"name": dataset, "layout": "folder", "root": "/parts", "class_names": {}, "categories": []},
        "backbone": {"name": "demo", "architecture": "winclip-bench-demo", "pretrained": "some_tag"},
        "method": {"name": "winclip"},
        "prompts": {"name": prompts},
        "protocol": {"name": "paper"},
        "runtime": {"precision": "fp32"},
        "scales": [2, 3],
        "k_shot": k,
        "seed": seed,
    }


def make_run(
    results: Path,
    categories: Sequence[str],
    settings: Mapping[str, Any],
    *,
    images: int = 6,
    defect: str = "crack",
    warnings: Sequence[str] = (),
    metrics: Mapping[str, float | None] | None = None,
    shown: int = 24,
) -> str:
    """A run over categories of ``images`` test images, every second one anomalous. Returns its run_id.

    metrics   instead of measured ones, the same for all categories
    """
    run_id = records.run_id(settings)
    folder = results.parent / "images"
    folder.mkdir(exist_ok=True)
    for number, category in enumerate(categories):
        rng = np.random.default_rng([number, settings["k_shot"], settings["seed"]])
        maps = [rng.random((SIDE, SIDE)).astype(np.float32) for _ in range(images)]
        masks = [np.zeros((SIDE, SIDE), bool) for _ in range(images)]
        files, samples = [], []
        for index in range(images):
            kind = defect if index % 2 else "good"
            masks[index][4:12, 6:18] = index % 2
            files.append(folder / f"{index}.png")
            Image.fromarray(np.full((40, 60, 3), index % 256, np.uint8)).save(files[-1])
            samples.append(Sample(files[-1], f"test/{kind}/{index}.png", category, "test", kind))
        labels = [sample.label for sample in samples]
        scores = [float(score) for score in rng.random(images)]
        pixels, of_samples = pixel_metrics(maps, masks), sample_metrics(scores, labels)
        values = dict(metrics) if metrics is not None else {**pixels.values, **of_samples.values}
        record = Record(
            run_id=run_id,
            dataset=settings["dataset"]["name"],
            category=category,
            config=settings,
            metrics=values,
            undefined={name: "no such pixels" for name, value in values.items() if value is None},
            warnings=list(warnings),
            counts={"test": images, "test_good": labels.count(0), "test_anomalous": labels.count(1)},
            references=[
                {"path": f"train/good/{index}.png", "sha256": f"{index:064x}"} for index in range(settings["k_shot"])
            ],
            timing={"encode": 1.5, "score": 0.25},
            provenance={"weights_sha256": "ab" * 32, "dataset_digest": "cd" * 32, "versions": {"torch": "2.15.0"}},
        )
        if shown:
            content = pictures.gallery(
                [(sample, file_sha256(sample.image)) for sample in samples],
                scores,
                [(60, 40)] * images,
                maps,
                masks,
                limit=shown,
                references={},
            )
            pictures.write(results, run_id, category, content)
        rows = [Score(one.key, one.defect, one.label, score) for one, score in zip(samples, scores, strict=True)]
        records.write(results, record, rows, curve=pixel_points(maps, masks))
    return run_id
