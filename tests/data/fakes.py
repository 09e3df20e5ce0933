"""A backbone and a task that count what is asked of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from compatbench.backbone import FEATURES, ImageInput
from compatbench.data.images.source import Sample
from compatbench.data.task import Task


class FakeBackbone:
    """Features are the mean colour of the image; calls are counted."""

    name = "fake"
    embed_dim = 3
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, sha256: str = "a" * 64, log: Path | None = None) -> None:
        self.card = SimpleNamespace(config="fake")
        self.weights_key = sha256
        self.preprocess_settings = {"size": (8, 8)}
        self.encoded = 0
        self.log = log

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()

    def encode_images(self, images: torch.Tensor, wanted: ImageInput = FEATURES) -> torch.Tensor:
        self.encoded += len(images)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{os.getpid()} {len(images)}\n")
        features = images.mean((-1, -2))
        return features if wanted == FEATURES else features[:, None] + images.flatten(2).mT


class FakeTask(Task):
    name = "fake"

    def __init__(self, count: int = 5) -> None:
        self.images = "one"
        self.samples = [Sample(f"image {i}", 0) for i in range(count)]
        self.source = self  # type: ignore[assignment]

    def fingerprint(self, samples: Sequence[Sample]) -> str:
        return f"{self.images} {[sample.id for sample in samples]}"

    def image(self, sample: Sample) -> Image.Image:
        number = int(sample.id.split()[1])
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return Image.fromarray(pixels)
