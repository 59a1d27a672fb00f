"""anomalib's own WinCLIP on some images, for scripts/parity.py, which runs this in an environment of its own.

    .parity/bin/python scripts/parity_anomalib.py job.json output.npz

The job names the checkpoint, the class, the images, their masks and the references. The output has, per image, the
image, window and patch embeddings, and score and map without (`_k0`) and with the references (`_k<n>`). Nothing of this
project is imported.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data.utils.image import read_image, read_mask
from anomalib.models.image.winclip import WinClip, torch_model
from torchvision.tv_tensors import Image

SCALES = (2, 3)


def main(job_file: str, output: str) -> None:
    """Do one job."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    torch_model.PRETRAINED = job["weights"]  # a tag, for which open_clip also takes the path of a checkpoint
    model = torch_model.WinClipModel(scales=SCALES).eval()
    encode, known = model.encode_image, {}

    def encode_once(batch: torch.Tensor) -> Any:
        if id(batch) not in known:
            known[id(batch)] = encode(batch)
        return known[id(batch)]

    model.encode_image = encode_once
    transform = WinClip.configure_pre_processor().transform
    images = [transform(Image(read_image(path, as_tensor=True)))[None] for path in job["images"]]
    references = torch.cat([transform(Image(read_image(path, as_tensor=True)))[None] for path in job["references"]])

    results: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for k, gallery in ((0, None), (len(references), references)):
            model.setup(job["class_name"], gallery)
            predictions = [model(image) for image in images]
            results[f"scores_k{k}"] = torch.cat([found.pred_score for found in predictions]).numpy()
            results[f"maps_k{k}"] = torch.cat([found.anomaly_map for found in predictions]).numpy()
    embedded = [known[id(image)] for image in images]
    results["image"] = torch.cat([image for image, _, _ in embedded]).numpy()
    for index, side in enumerate(SCALES):
        results[f"windows-{side}"] = torch.cat([windows[index] for _, windows, _ in embedded]).numpy()
    results["patches"] = torch.cat([patches for _, _, patches in embedded]).numpy()
    results["text"] = model.text_embeddings.numpy()
    for index, path in enumerate(job["masks"]):
        if path is not None:
            results[f"mask_{index}"] = transform(read_mask(path, as_tensor=True)).numpy().astype(bool)
    np.savez(output, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
