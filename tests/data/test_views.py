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
    """Return an image in which every pixel is different; red grows from left to right."""
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
def test_augmentation_is_repeatable_and_has_the_requested_size(
    identity: str, number: int, size: int, augmentation: Literal["crop", "randaugment"]
) -> None:
    image = painting()
    view = View(number, augmentation=augmentation)
    found = view.apply(image, identity, size)
    assert found.size == (size, size)
    assert pixels(view.apply(image, identity, size)) == pixels(found)
    assert pixels(image) == pixels(painting())


def test_each_view_number_and_image_gives_different_pixels() -> None:
    different = set()
    for number in range(1, 6):
        for identity in ("a", "b", "a1"):
            view = View(number).apply(painting(), identity, 24)
            different.add(tuple(pixels(view)))
    assert len(different) == 15
    others = [View(2), View(1, (0.5, 1.0)), View(1, flip=False), View(0)]
    others += [View(1, augmentation="randaugment")]
    for other in others:
        assert other.settings != View(1).settings


def test_augmented_pixels_are_pinned() -> None:
    """Changing the draw would silently make old features and new ones differ."""
    small = np.asarray(View(1).apply(painting(), "set/1", 4))
    assert small[0, :, 0].tolist() == [175, 136, 96, 57]
    assert small[:, 0, 1].tolist() == [28, 84, 144, 202]
    augmented = View(1, augmentation="randaugment").apply(painting(), "set/1", 4)
    assert np.asarray(augmented)[0, :, 0].tolist() == [20, 117, 74, 33]


@pytest.mark.parametrize(("flip", "least", "most"), [(True, 160, 240), (False, 0, 0)])
def test_half_of_the_views_are_mirrored_unless_disabled(flip: bool, least: int, most: int) -> None:
    mirrored = 0
    for number in range(1, 401):
        view = View(number, (0.5, 1.0), flip).apply(painting(), "set/1", 8)
        red = np.asarray(view)[..., 0]
        if red[:, 0].mean() > red[:, -1].mean():
            mirrored += 1
    assert least <= mirrored <= most


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0), (0.3, 0.4)])
def test_crop_area_is_within_the_scale(scale: tuple[float, float]) -> None:
    """Shares are read from the ramps of the picture: red gives the width, green the height."""
    shares = []
    for number in range(1, 200):
        crop = View(number, scale, flip=False).apply(painting(), "set/1", 64)
        red = np.asarray(crop)[..., 0].astype(float)
        green = np.asarray(crop)[..., 1].astype(float)
        width = (red[:, -1].mean() - red[:, 0].mean()) / 4 * 64 / 63
        height = (green[-1].mean() - green[0].mean()) / 6 * 64 / 63
        shares.append(width * height / 2400)
    assert min(shares) > scale[0] - 0.06
    assert max(shares) < scale[1] + 0.06
    # The largest shares seldom fit a picture of 3 : 2.
    assert max(shares) - min(shares) > 0.6 * (scale[1] - scale[0])


def solarize_add(levels: np.ndarray) -> np.ndarray:
    lighter = np.minimum(levels + 36, 255)
    return np.where(lighter < 128, lighter, 255 - lighter)


# The level of a pixel after an operation, at a third of the operation's range.
LEVELS = {
    "invert": lambda x: 255 - x,
    "posterize": lambda x: x // 8 * 8,
    "solarize": lambda x: np.where(x < 256 / 3, x, 255 - x),
    "solarize-add": solarize_add,
    "brightness": lambda x: np.floor(x * 0.7),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_randaugment_operations_change_the_expected_pixels(name: str) -> None:
    operation, least, most = OPERATIONS[name]
    image = painting()
    value = least + STRENGTH * (most - least)
    before = np.asarray(image).astype(int)
    after = []
    for seed in range(8):
        found = operation(image, value, np.random.default_rng(seed))
        assert found.size == image.size
        assert found.mode == "RGB"
        changed = np.asarray(found).astype(int)
        after.append(changed)
        if name != "sharpness":  # the picture has no edges to sharpen
            assert not np.array_equal(changed, before)
    different = {changed.tobytes() for changed in after}
    if name == "cut-out":
        assert len(different) == 8
    elif name in {"rotate", "shear-x", "shear-y", "translate-x", "translate-y"}:
        assert len(different) == 2  # either direction
    else:
        assert len(different) == 1
    if name in LEVELS:
        tolerance = 1 if name == "brightness" else 0
        assert np.abs(after[0] - LEVELS[name](before)).max() <= tolerance
    if name == "translate-x":
        shift = 33
        moved = {tuple(each[0, :, 0]) for each in after}
        row = before[0, :, 0]
        black = np.zeros(shift, int)
        assert moved == {(*row[shift:], *black), (*black, *row[:-shift])}
    if name == "cut-out":
        for changed in after:
            grey = (changed == (125, 123, 114)).all(-1)
            assert 7 * 7 <= grey.sum() <= 15 * 15
