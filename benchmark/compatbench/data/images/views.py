"""Views of images: the plain one, its mirror image, and seeded augmentations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from compatbench.data.images.rand_augment import rand_augment
from compatbench.files.hashes import sha256_bytes


@dataclass(frozen=True)
class View:
    """The plain view of a training image, its mirror image, or a seeded augmentation of it."""

    number: int = 0  # 0 is the plain view; 1, 2, ... are augmentations
    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the area that a random crop keeps
    flip: bool = True  # whether half the augmentations are mirrored
    mirror: bool = False  # whether the plain view is
    augmentation: Literal["crop", "randaugment"] = "crop"  # the second neither crops nor mirrors

    @property
    def settings(self) -> list[object]:
        """What decides the view, as JSON."""
        if self.number == 0:
            return [0, "mirror"] if self.mirror else [0]
        if self.augmentation == "randaugment":
            return [self.number, self.augmentation]
        return [self.number, *self.crop_scale, self.flip]

    def apply(self, image: Image.Image, sample_id: str, size: int) -> Image.Image:
        """The view of an image, before the backbone's own preprocessing.

        An augmentation is ``size`` pixels wide and high. It depends on the image's identity and
        the view alone, so that an image looks the same in every few-shot draw that holds it.
        """
        if self.number == 0:
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirror else image
        seed = sha256_bytes(f"{sample_id}\n{self.number}".encode())
        generator = np.random.Generator(np.random.PCG64(int(seed[:16], 16)))
        if self.augmentation == "randaugment":
            resized = image.resize((size, size), Image.Resampling.BICUBIC)
            return rand_augment(resized, generator)
        box = _random_box(image.size, self.crop_scale, generator)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
        if self.flip and generator.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image


def _random_box(
    size: tuple[int, int], scale: tuple[float, float], generator: np.random.Generator
) -> tuple[float, float, float, float]:
    """A crop as in torchvision's RandomResizedCrop: a random area, ratio 3/4 to 4/3."""
    width, height = size
    for _ in range(10):
        area = width * height * generator.uniform(*scale)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(generator.integers(0, width - w + 1))
            top = int(generator.integers(0, height - h + 1))
            return left, top, left + w, top + h
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side
