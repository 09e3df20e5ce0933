"""Views of images: the plain one, its mirror image, and seeded augmentations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from compatbench.files.hashes import sha256_bytes

DRAWN = 2  # operations on an image, drawn with repetition
STRENGTH = 10 / 30  # the position in the range of every operation

Operation = Callable[[Image.Image, float, np.random.Generator], Image.Image]


@dataclass(frozen=True)
class View:
    """The plain view of a training image, its mirror image, or a seeded augmentation of it."""

    number: int = 0  # 0 is the plain view; 1, 2, ... are augmentations
    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the area that a random crop keeps
    flip: bool = True  # True if half the augmentations are mirrored
    mirror: bool = False  # True if the plain view is mirrored
    augmentation: Literal["crop", "randaugment"] = "crop"  # the second neither crops nor mirrors

    @property
    def settings(self) -> list[object]:
        """Return everything that decides the view, as JSON values."""
        if self.number == 0:
            return [0, "mirror"] if self.mirror else [0]
        if self.augmentation == "randaugment":
            return [self.number, self.augmentation]
        return [self.number, *self.crop_scale, self.flip]

    def apply(self, image: Image.Image, sample_id: str, size: int) -> Image.Image:
        """Return the view of an image, before the backbone's own preprocessing.

        An augmentation is ``size`` pixels wide and high. It depends only on the image's identity
        and the view, so that an image looks the same in every few-shot draw that contains it.
        """
        if self.number == 0:
            if self.mirror:
                return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return image
        digest = sha256_bytes(f"{sample_id}\n{self.number}".encode())
        seed = int(digest[:16], 16)
        generator = np.random.Generator(np.random.PCG64(seed))
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
    """Draw a crop as torchvision's RandomResizedCrop does: a random area, ratio 3/4 to 4/3.

    Return its left, upper, right and lower edge. After ten crops that do not fit, return the
    square in the middle.
    """
    width, height = size
    for _ in range(10):
        area = width * height * generator.uniform(*scale)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        crop_width = round(math.sqrt(area * ratio))
        crop_height = round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(generator.integers(0, width - crop_width + 1))
            top = int(generator.integers(0, height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    side = min(size)
    left = (width - side) // 2
    top = (height - side) // 2
    return left, top, left + side, top + side


def rand_augment(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Apply ``DRAWN`` random operations to an RGB image; its size does not change.

    This is RandAugment (Cubuk et al., arXiv:1909.13719), with the operations and ranges of Dassl.
    """
    names = [*OPERATIONS]
    for index in generator.integers(len(names), size=DRAWN):
        operation, low, high = OPERATIONS[names[index]]
        value = low + STRENGTH * (high - low)
        image = operation(image, value, generator)
    return image


def _sign(generator: np.random.Generator) -> int:
    return -1 if generator.random() < 0.5 else 1


def _plain(change: Callable[[Image.Image], Image.Image]) -> Operation:
    """Return an operation that has no strength."""
    return lambda image, value, generator: change(image)


def _map_plane(
    image: Image.Image, value: float, generator: np.random.Generator, entry: int
) -> Image.Image:
    """Apply an affine map that differs from the identity in one entry, with a random sign."""
    matrix = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    matrix[entry] = _sign(generator) * value
    return image.transform(image.size, Image.Transform.AFFINE, tuple(matrix))


def _solarize_add(image: Image.Image, value: float, generator: np.random.Generator) -> Image.Image:
    lighter = [min(level + int(value), 255) for level in range(256)]
    return ImageOps.solarize(image.point(lighter * 3))  # a table for each of the three channels


def _cut_out(image: Image.Image, value: float, generator: np.random.Generator) -> Image.Image:
    """Paint a grey square of side ``value``, its centre anywhere in the image."""
    left = int(max(0, generator.uniform(0, image.width) - value / 2))
    top = int(max(0, generator.uniform(0, image.height) - value / 2))
    right = min(image.width, left + value)
    bottom = min(image.height, top + value)
    image = image.copy()
    ImageDraw.Draw(image).rectangle((left, top, right, bottom), (125, 123, 114))
    return image


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, value, generator: kind(image).enhance(value)


# Each operation with its range. Angles are in degrees, lengths in pixels.
OPERATIONS: dict[str, tuple[Operation, float, float]] = {
    "autocontrast": (_plain(ImageOps.autocontrast), 0, 1),
    "equalize": (_plain(ImageOps.equalize), 0, 1),
    "invert": (_plain(ImageOps.invert), 0, 1),
    "rotate": (lambda image, value, draw: image.rotate(_sign(draw) * value), 0, 30),
    "posterize": (lambda image, value, draw: ImageOps.posterize(image, int(value)), 4, 8),
    "solarize": (lambda image, value, draw: ImageOps.solarize(image, math.ceil(value)), 0, 256),
    "solarize-add": (_solarize_add, 0, 110),
    "color": (_enhance(ImageEnhance.Color), 0.1, 1.9),
    "contrast": (_enhance(ImageEnhance.Contrast), 0.1, 1.9),
    "brightness": (_enhance(ImageEnhance.Brightness), 0.1, 1.9),
    "sharpness": (_enhance(ImageEnhance.Sharpness), 0.1, 1.9),
    "shear-x": (partial(_map_plane, entry=1), 0, 0.3),
    "shear-y": (partial(_map_plane, entry=3), 0, 0.3),
    "cut-out": (_cut_out, 0, 40),
    "translate-x": (partial(_map_plane, entry=2), 0, 100),
    "translate-y": (partial(_map_plane, entry=5), 0, 100),
}
