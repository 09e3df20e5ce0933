"""Prints, as JSON, the most memory in which 50,000 images of 1,000 classes are classified.

    python benchmark/speed/classify_memory.py tip_adapter_f
    python benchmark/speed/classify_memory.py cocoop --images 256
    python benchmark/speed/classify_memory.py cocoop --thin

On random features and weights, of the joint space of ViT-B/16. CoCoOp encodes every class anew for
each image: fewer images are asked of it, or all of a text tower of one block of width 8. The
first shows what a batch takes, the second what grows with the images.
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch
import typer
from workload import peak_gib

from compatbench.backbone import Backbone
from compatbench.data.labels import Labels
from compatbench.engine.predict import answer_batches
from compatbench.extras.check.models import build_clip, wrap
from compatbench.method import FeatureSet, FewShotData
from compatbench.method.predictions import predict
from compatbench.method.registry import builtin_methods

CLASSES, SHOTS, SIZE = 1000, 16, 512


def thin_clip() -> Backbone:
    """A CLIP whose text tower is one block of width 8."""
    model: Any = build_clip("thin", seed=1, embed_dim=SIZE, token_width=8, head_width=8).model
    model.transformer.resblocks = model.transformer.resblocks[:1]
    return wrap(model, "thin")


def main(name: str, images: int = 50_000, thin: bool = False) -> None:
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(1)
    backbone = thin_clip() if thin else build_clip("wide", seed=1, embed_dim=SIZE)
    template = "a photo of a {}."
    labels = Labels(tuple(f"thing {i}" for i in range(CLASSES)), (template,), template)
    targets = torch.arange(CLASSES).repeat_interleave(SHOTS)
    train = torch.randn(len(targets), SIZE, generator=draw)
    few = FeatureSet(train, train[None], targets)
    data = FewShotData(labels, SHOTS, few, few)
    features = torch.randn(images, SIZE, generator=draw)
    method = builtin_methods().get(name)()
    with torch.no_grad():
        module = method.init(backbone, data, draw).detach()  # type: ignore[attr-defined]
        classify = method.attach(module, backbone, labels)
        before, start, sizes, answers = peak_gib(), time.perf_counter(), [], []
        for count, logits in answer_batches(classify, features):
            answers.append(predict(logits))
            sizes.append(count)
    figures = {"method": name, "images": sum(sizes), "batch": sizes[0]}
    figures["text"] = f"{backbone.text.depth} × {backbone.text.width}"
    figures |= {"seconds": round(time.perf_counter() - start, 1)}
    print(json.dumps(figures | {"before_gib": before, "peak_gib": peak_gib()}))


if __name__ == "__main__":
    typer.run(main)
