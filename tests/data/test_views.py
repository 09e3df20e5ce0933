"""Views of training images: the plain one, and augmentations that anyone can repeat."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compatbench.data.images.views import OPERATIONS, STRENGTH, View


def painting() -> Image.Image:
    """An image in which every pixel is different; red grows from left to right."""
    across, down = np.meshgrid(np.arange(60), np.arange(40))
    pixels = np.stack([across * 4, down * 6, across + down], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def pixels(image: Image.Image) -> list[int]:
    return np.asarray(image).ravel().tolist()


def test_view_zero_is_the_image_itself() -> None:
    image = painting()
    assert View().apply(image, "set/1", 24) is image
    assert View(0, (0.5, 1.0), flip=False).settings == View(0).settings
    mirrored = View(mirror=True)
    assert np.array_equal(mirrored.apply(image, "set/1", 24), np.asarray(image)[:, ::-1])
    assert mirrored.settings != View().settings


@given(
    identity=st.text(max_size=20),
    number=st.integers(1, 999),
    size=st.integers(1, 48),
    augmentation=st.sampled_from(["crop", "randaugment"]),
)
def test_an_augmentation_is_repeatable_and_has_the_size_asked_for(
    identity: str, number: int, size: int, augmentation: Literal["crop", "randaugment"]
) -> None:
    image, view = painting(), View(number, augmentation=augmentation)
    found = view.apply(image, identity, size)
    assert found.size == (size, size)
    assert pixels(view.apply(image, identity, size)) == pixels(found)
    assert pixels(image) == pixels(painting())


def test_another_number_or_another_image_gives_other_pixels() -> None:
    views = [View(n).apply(painting(), i, 24) for n in range(1, 6) for i in ("a", "b", "a1")]
    assert len({tuple(pixels(view)) for view in views}) == 15
    others = [View(2), View(1, (0.5, 1.0)), View(1, flip=False), View(0)]
    others += [View(1, augmentation="randaugment")]
    assert not any(other.settings == View(1).settings for other in others)


def test_an_augmentation_is_pinned() -> None:
    """Changing the draw would silently make old features and new ones differ."""
    small = np.asarray(View(1).apply(painting(), "set/1", 4))
    assert small[0, :, 0].tolist() == [175, 136, 96, 57]
    assert small[:, 0, 1].tolist() == [28, 84, 144, 202]
    augmented = View(1, augmentation="randaugment").apply(painting(), "set/1", 4)
    assert np.asarray(augmented)[0, :, 0].tolist() == [20, 117, 74, 33]


@pytest.mark.parametrize(("flip", "least", "most"), [(True, 160, 240), (False, 0, 0)])
def test_half_the_augmentations_are_mirrored_or_none(flip: bool, least: int, most: int) -> None:
    views = [View(n, (0.5, 1.0), flip).apply(painting(), "set/1", 8) for n in range(1, 401)]
    red = [np.asarray(view)[..., 0] for view in views]
    assert least <= sum(one[:, 0].mean() > one[:, -1].mean() for one in red) <= most


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0), (0.3, 0.4)])
def test_a_crop_keeps_a_share_of_the_area_within_the_scale(scale: tuple[float, float]) -> None:
    """Shares are read from the ramps of the picture: red gives the width, green the height."""
    shares = []
    for number in range(1, 200):
        crop = View(number, scale, flip=False).apply(painting(), "set/1", 64)
        red, green = (np.asarray(crop)[..., channel].astype(float) for channel in (0, 1))
        width = (red[:, -1].mean() - red[:, 0].mean()) / 4 * 64 / 63
        height = (green[-1].mean() - green[0].mean()) / 6 * 64 / 63
        shares.append(width * height / 2400)
    assert min(shares) > scale[0] - 0.06
    assert max(shares) < scale[1] + 0.06
    # The largest shares seldom fit a picture of 3 : 2.
    assert max(shares) - min(shares) > 0.6 * (scale[1] - scale[0])


# What an operation makes of the levels of a pixel, at a third of its range.
LEVELS = {
    "invert": lambda x: 255 - x,
    "posterize": lambda x: x // 8 * 8,
    "solarize": lambda x: np.where(x < 256 / 3, x, 255 - x),
    "solarize-add": lambda x: np.where((y := np.minimum(x + 36, 255)) < 128, y, 255 - y),
    "brightness": lambda x: np.floor(x * 0.7),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_operations_of_randaugment(name: str) -> None:
    operation, least, most = OPERATIONS[name]
    image, value = painting(), least + STRENGTH * (most - least)
    before = np.asarray(image).astype(int)
    found = [operation(image, value, np.random.default_rng(i)) for i in range(8)]
    after = [np.asarray(each).astype(int) for each in found]
    assert all(each.size == image.size and each.mode == "RGB" for each in found)
    # No edge of the picture is there to be smoothed.
    assert name == "sharpness" or not any(np.array_equal(each, before) for each in after)
    random = {"rotate", "shear-x", "shear-y", "translate-x", "translate-y"}
    assert len({each.tobytes() for each in after}) == (
        8 if name == "cut-out" else 1 + (name in random)
    )
    if name in LEVELS:
        assert np.abs(after[0] - LEVELS[name](before)).max() <= (1 if name == "brightness" else 0)
    if name == "translate-x":
        shift = 33
        moved = {tuple(each[0, :, 0]) for each in after}
        row, black = before[0, :, 0], np.zeros(shift, int)
        assert moved == {(*row[shift:], *black), (*black, *row[:-shift])}
    if name == "cut-out":
        grey = [(each == (125, 123, 114)).all(-1).sum() for each in after]
        assert all(7 * 7 <= count <= 15 * 15 for count in grey)
