"""How long the page takes to make, how large it is, and how soon it opens.

    python benchmarks/page.py            a minute or two

Two constructed results folders: 27 categories × 5 k × 5 seeds with 24 pictures each, and one category with 2,000
pictures. Prints one markdown table. Seconds are of one process on an idle machine; "opens" is until a headless
Chromium has parsed and laid out the page, where selenium and a chromedriver are installed.
"""

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tabulate import tabulate

from winclip_bench import pictures, records
from winclip_bench.data import Sample
from winclip_bench.metrics import pixel_metrics, sample_metrics
from winclip_bench.metrics.points import pixel_points
from winclip_bench.records import Record, Score
from winclip_bench.report.page import write_page

SIDE, GRID = 240, 15
CATEGORIES = {"mvtec": 15, "visa": 12}


@cache
def category(seed: int, count: int) -> tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]], list[float]]:
    """Maps as a patch grid gives them, masks, and image scores; two thirds of the images are anomalous."""
    rng = np.random.default_rng(seed)
    maps, masks, scores = [], [], []
    for number in range(count):
        grid = rng.normal(0.25, 0.06, (GRID, GRID)).astype(np.float32)
        mask = np.zeros((SIDE, SIDE), bool)
        if number % 3:
            y, x, r = *rng.uniform(40, 200, 2), rng.uniform(8, 30)
            rows, columns = np.ogrid[:SIDE, :SIDE]
            mask = (rows - y) ** 2 + (columns - x) ** 2 < r * r
            grid[int(y) // 16, int(x) // 16] += rng.uniform(0, 0.4)
        smooth = Image.fromarray(grid).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        maps.append(np.asarray(smooth))
        masks.append(mask)
        scores.append(float(grid.max()))
    return maps, masks, scores


def images(folder: Path, count: int) -> list[Path]:
    """Images of noise and a disc, as JPEG."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(60, 200, (24, 24, 3), dtype=np.uint8))
        paths.append(folder / f"{number:04}.jpg")
        coarse.resize((512, 512), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def write_run(
    results: Path, dataset: str, names: Sequence[str], k: int, seed: int, files: Sequence[Path], *, limit: int
) -> None:
    """A run's records with everything that lies beside them; every category has ``len(files)`` test images."""
    config = _config(dataset, k, seed)
    run_id = records.run_id(config)
    for place, name in enumerate(names):
        maps, masks, scores = category((5 * place + seed) % 30, len(files))
        kinds = ["crack" if number % 3 else "good" for number in range(len(files))]
        samples = [
            Sample(path, f"test/{kind}/{path.name}", name, "test", kind)
            for path, kind in zip(files, kinds, strict=True)
        ]
        labels = [sample.label for sample in samples]
        pixels, of_samples = pixel_metrics(maps, masks), sample_metrics(scores, labels)
        record = Record(
            run_id=run_id,
            dataset=dataset,
            category=name,
            config=config,
            metrics={**pixels.values, **of_samples.values},
            undefined={**pixels.undefined, **of_samples.undefined},
            warnings=[],
            counts={"test": len(files), "test_good": labels.count(0), "test_anomalous": labels.count(1)},
            references=[{"path": f"train/good/{number:03}.png", "sha256": f"{number:064x}"} for number in range(k)],
            timing={"encode": 1.0, "score": 0.5, "metrics": 0.1},
            provenance={"weights_sha256": "ab" * 32, "dataset_digest": "cd" * 32},
        )
        shown = pictures.gallery(
            [(sample, f"{number:064x}") for number, sample in enumerate(samples)],
            scores,
            [(512, 512)] * len(files),
            maps,
            masks,
            limit=limit,
            references={},
        )
        pictures.write(results, run_id, name, shown)
        rows = (Score(one.key, one.defect, one.label, score) for one, score in zip(samples, scores, strict=True))
        records.write(results, record, rows, curve=pixel_points(maps, masks))


def _config(dataset: str, k: int, seed: int) -> dict[str, Any]:
    return {
        "dataset": {"name": dataset, "layout": dataset, "root": f"data/{dataset}", "class_names": {}, "categories": []},
        "backbone": {"name": "vit_b_16_plus_240", "architecture": "ViT-B-16-plus-240", "pretrained": "laion400m_e31"},
        "method": {"name": "winclip"},
        "prompts": {"name": "winclip"},
        "protocol": {"name": "paper", "references": "without_replacement"},
        "runtime": {"precision": "fp32"},
        "scales": [2, 3],
        "k_shot": k,
        "seed": seed,
    }


def size(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def opens(page: Path) -> float | None:
    """Seconds until the page is loaded, median of three; None without a browser."""
    try:
        from selenium import webdriver  # noqa: PLC0415  (a test's dependency)

        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        service = webdriver.ChromeService(shutil.which("chromedriver"))  # selenium would look for one on the network
        driver = webdriver.Chrome(options=options, service=service)
    except Exception:  # whatever a browser that is not there raises
        return None
    seconds = []
    for _ in range(3):
        driver.get(page.as_uri())
        timing = "const t = performance.getEntriesByType('navigation')[0]; return JSON.stringify([t.loadEventEnd])"
        seconds.append(json.loads(driver.execute_script(timing))[0] / 1000)
    driver.quit()
    return statistics.median(seconds)


def measure(title: str, results: Path) -> list[str]:
    start = time.perf_counter()
    index, broken = write_page(results)
    seconds = time.perf_counter() - start
    assert not broken
    pages = [index, *results.glob("page/*/*.html")]
    shown = [path for path in results.glob("pictures/**/*") if path.is_file()]
    largest = max(pages, key=lambda path: path.stat().st_size)
    opened = opens(largest)
    return [
        title,
        f"{seconds:.1f}",
        str(len(pages)),
        f"{size([index]) / 1e6:.2f}",
        f"{largest.stat().st_size / 1e6:.2f}",
        f"{size(pages) / 1e6:.1f}",
        f"{len(shown)}, {size(shown) / 1e6:.1f}",
        "–" if opened is None else f"{opened:.2f}",
    ]


def main() -> None:
    head = ("results", "page, s", "files", "index, MB", "largest, MB", "all, MB", "pictures, MB", "opens, s")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = images(Path(folder) / "few", 60)
        for dataset, count in CATEGORIES.items():
            names = [f"class_{number:02}" for number in range(count)]
            for k in (0, 1, 2, 4, 8):
                for seed in range(5):
                    write_run(Path(folder) / "sweep", dataset, names, k, seed, files, limit=24)
        rows.append(measure("27 categories × 5 k × 5 seeds", Path(folder) / "sweep"))
        many = images(Path(folder) / "many", 2000)
        start = time.perf_counter()
        write_run(Path(folder) / "large", "parts", ["part"], 4, 0, many, limit=2000)
        rows.append(measure("1 category, 2,000 pictures", Path(folder) / "large"))
        print(f"Writing 2,000 pictures with all that is made for them: {time.perf_counter() - start:.0f} s\n")
    print(tabulate(rows, head, tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
