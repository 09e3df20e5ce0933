"""The handwritten digits of scikit-learn as a task."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from compatbench.data.layouts import digits
from compatbench.data.task import inspect_task, load_task


def test_each_digit_is_in_one_split_with_its_own_label() -> None:
    source = load_task("digits").source
    numbers = []
    for samples in source.samples.values():
        for sample in samples:
            assert sample.label == load_digits().target[int(sample.id)]
            numbers.append(int(sample.id))
    assert numbers == list(range(1797))


def test_ink_is_dark_and_the_page_is_white() -> None:
    source = load_task("digits").source
    sample = source.samples["test"][0]
    ink = load_digits().images[int(sample.id)] / 16
    image = np.asarray(source.image(sample), dtype=float) / 255
    assert image.shape == (48, 48, 3)
    blocks = image[..., 0].reshape(8, 6, 8, 6).mean((1, 3))
    assert np.corrcoef(blocks.ravel(), 1 - ink.ravel())[0, 1] > 0.98


def test_other_pixels_have_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    source = load_task("digits").source
    samples = source.samples["test"]
    before = source.fingerprint(samples)
    cells, labels = digits._load()
    monkeypatch.setattr(digits, "_load", lambda: (cells[::-1].copy(), labels))
    assert source.fingerprint(samples) != before


def test_digits_are_found_without_a_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMPATBENCH_DATA", raising=False)
    assert inspect_task("digits", deep=True).state == "found"
