"""Views of training images: the plain one, and augmentations that anyone can repeat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compatbench.data.views import View, _random_box

# View 1 of image "set/1", 4 pixels wide: red from left to right, green from top to bottom.
PINNED_RED = [175, 136, 96, 57]
PINNED_GREEN = [28, 84, 144, 202]


def painting(width: int = 60, height: int = 40) -> Image.Image:
    """An image in which every pixel is different."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([across * 4, down * 6, across + down], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def pixels(image: Image.Image) -> list[int]:
    return np.asarray(image).ravel().tolist()


def test_view_zero_is_the_image_itself() -> None:
    image = painting()
    assert View().apply(image, "set/1", 24) is image


@given(identity=st.text(max_size=20), number=st.integers(1, 999), size=st.integers(1, 48))
def test_an_augmentation_has_the_size_that_was_asked_for(
    identity: str, number: int, size: int
) -> None:
    assert View(number).apply(painting(), identity, size).size == (size, size)


@given(identity=st.text(max_size=20), number=st.integers(1, 99))
def test_the_same_image_and_number_give_the_same_pixels(identity: str, number: int) -> None:
    first = View(number).apply(painting(), identity, 24)
    assert pixels(View(number).apply(painting(), identity, 24)) == pixels(first)


def test_another_number_or_another_image_gives_other_pixels() -> None:
    views = [View(n).apply(painting(), i, 24) for n in range(1, 6) for i in ("a", "b", "c")]
    assert len({tuple(pixels(view)) for view in views}) == 15


def test_an_identity_and_a_number_do_not_run_together() -> None:
    assert pixels(View(1).apply(painting(), "a1", 24)) != pixels(
        View(11).apply(painting(), "a", 24)
    )


def test_the_image_is_left_as_it_was() -> None:
    image = painting()
    before = pixels(image)
    View(3).apply(image, "set/1", 24)
    assert pixels(image) == before


def test_an_augmentation_is_pinned_down() -> None:
    """Changing the draw would silently make old features and new ones differ."""
    small = View(1).apply(painting(), "set/1", 4)
    red, green = np.asarray(small)[..., 0], np.asarray(small)[..., 1]
    assert red[0].tolist() == PINNED_RED
    assert green[:, 0].tolist() == PINNED_GREEN


def test_half_the_augmentations_are_mirrored() -> None:
    """The red channel grows from left to right."""
    mirrored = 0
    for number in range(1, 401):
        red = np.asarray(View(number, (0.5, 1.0)).apply(painting(), "set/1", 8))[..., 0]
        mirrored += int(red[:, 0].mean() > red[:, -1].mean())
    assert 160 < mirrored < 240


def test_flips_can_be_left_out() -> None:
    for number in range(1, 50):
        red = np.asarray(View(number, flip=False).apply(painting(), "set/1", 8))[..., 0]
        assert red[:, 0].mean() < red[:, -1].mean()


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    scale=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted).map(tuple),
    seed=st.integers(0, 2**32),
)
def test_a_crop_lies_inside_and_keeps_a_share_within_the_scale(
    width: int, height: int, scale: tuple[float, float], seed: int
) -> None:
    box = _random_box((width, height), scale, np.random.default_rng(seed))
    left, top, right, bottom = box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    side = min(width, height)
    if (w, h) == (side, side) and (left, top) == ((width - side) // 2, (height - side) // 2):
        return  # no crop fitted ten times: the largest centred square
    # Width and height are rounded by half a pixel each.
    assert (w - 0.5) * (h - 0.5) <= scale[1] * width * height
    assert (w + 0.5) * (h + 0.5) >= scale[0] * width * height
    assert (w - 0.5) / (h + 0.5) <= 4 / 3
    assert (w + 0.5) / (h - 0.5) >= 3 / 4


def test_shares_are_spread_over_the_whole_scale() -> None:
    generator = np.random.default_rng(0)
    boxes = [_random_box((1000, 1000), (0.08, 1.0), generator) for _ in range(500)]
    shares = [(r - x) * (b - y) / 1e6 for x, y, r, b in boxes]
    assert min(shares) < 0.1
    assert max(shares) > 0.9
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("view", "other"),
    [
        (View(1), View(2)),
        (View(1), View(1, (0.5, 1.0))),
        (View(1), View(1, flip=False)),
        (View(0), View(1)),
    ],
)
def test_settings_tell_views_apart(view: View, other: View) -> None:
    assert view.settings != other.settings


def test_the_plain_view_has_no_settings_that_matter() -> None:
    assert View(0, (0.5, 1.0), flip=False).settings == View(0).settings
