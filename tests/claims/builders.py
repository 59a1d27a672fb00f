"""Records as a run under a claim's settings would leave them, with chosen numbers."""

import copy
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from winclip_bench.claims.published import Claim, Settings, default_folder, read_claims
from winclip_bench.records import Record

CLAIMS = read_claims(default_folder())


def claim(name: str, dataset: str, k_shot: int, metric: str, thing: str = "mean") -> Claim:
    """One published number of a source that has no variants."""
    wanted = (name, dataset, k_shot, metric, thing)
    (found,) = [c for c in CLAIMS if (c.claim, c.dataset, c.k_shot, c.metric, c.object) == wanted]
    return found


def config_of(settings: Settings) -> dict[str, Any]:
    """A configuration that holds everything that the settings ask for, and little else."""
    config: dict[str, Any] = {group: copy.deepcopy(dict(option)) for group, option in settings.options.items()}
    config |= {"k_shot": settings.k_shot, "seed": 0, "results_dir": "results"}
    config["dataset"] = {"name": settings.dataset, "class_names": {}, "categories": sorted(settings.counts)}
    config["backbone"] = {"name": "b", "pretrained": "checkpoint.pt"}
    config["runtime"] = {"precision": "fp32", "device": "cpu"}
    config["references"] = {"file": None}
    for dotted, value in settings.config.items():
        place = config
        *groups, key = dotted.split(".")
        for group in groups:
            place = place.setdefault(group, {})
        place[key] = value
    return config


def records_of(
    settings: Settings,
    values: Mapping[str, float] | float,
    seeds: Iterable[int] = (0,),
    shift: Mapping[int, float] | None = None,
) -> list[Record]:
    """One record per class and seed.

    values  percent by class; one number is that of every class of the dataset
    shift   seed -> points that are added to every class
    """
    if not isinstance(values, Mapping):
        values = dict.fromkeys(settings.counts, values)
    found = []
    for seed in seeds:
        config = config_of(settings) | {"seed": seed}
        # Not from the whole configuration: the golden files would change with every preset.
        run = (settings.dataset, settings.k_shot, seed, settings.experiment)
        run_id = hashlib.sha256(repr(run).encode()).hexdigest()[:12]
        for category, value in values.items():
            percent = value + (shift or {}).get(seed, 0)
            section, *inner = settings.metric.split(".")
            content: Any = percent / 100
            for key in reversed(inner):
                content = {key: content}
            found.append(
                Record(
                    run_id=run_id,
                    dataset=settings.dataset,
                    category=category,
                    config=config,
                    metrics={} if inner else {settings.metric: content},
                    undefined={},
                    warnings=[],
                    counts=copy.deepcopy(dict(settings.counts[category])),
                    references=[],
                    timing={},
                    provenance={"weights_sha256": min(settings.weights, default="0"), "dataset_digest": "d" * 64},
                    **({section: content} if inner else {}),
                )
            )
    return found
