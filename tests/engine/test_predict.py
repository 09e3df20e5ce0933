"""Answers image by image: flips and calibration."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compatbench.engine.predict import (
    BINS,
    Predictions,
    calibration_error,
    count_flips,
    predict,
    prompt_diversity,
)
from compatbench.harmonic_mean import harmonic_mean

ANSWERS = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.floats(0.25, 1, width=32)
    ),
    min_size=1,
    max_size=60,
)


def answers(classes: list[int], confidence: list[float] | None = None) -> Predictions:
    return Predictions(
        torch.tensor(classes, dtype=torch.int32),
        torch.tensor(confidence or [0.5] * len(classes), dtype=torch.float32),
    )


def columns(rows: list[tuple]) -> tuple[Predictions, Predictions, torch.Tensor]:
    old, new, labels, confidence = (list(column) for column in zip(*rows, strict=True))
    return answers(old, confidence), answers(new), torch.tensor(labels)


def test_logits_become_the_largest_class_and_its_probability() -> None:
    found = predict(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    assert found.classes.tolist() == [1, 0]
    assert found.confidence.tolist() == pytest.approx([0.731059, 0.880797], abs=1e-6)


def test_flips_of_a_worked_example() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0])
    flips = count_flips(answers([0, 0, 1, 1, 1]), answers([0, 1, 0, 1, 2]), labels)
    assert flips == {"negative_flips": 1, "positive_flips": 1, "inconsistent_errors": 1}


@given(ANSWERS)
def test_accuracies_differ_by_positive_minus_negative_flips(rows: list[tuple]) -> None:
    old, new, labels = columns(rows)
    flips = count_flips(old, new, labels)
    before, after = (int((p.classes == labels).sum()) for p in (old, new))
    assert after - before == flips["positive_flips"] - flips["negative_flips"]
    assert harmonic_mean(before, after) <= 2 * min(before, after)
    back = count_flips(new, old, labels)
    assert back["negative_flips"] == flips["positive_flips"]


@given(ANSWERS, st.randoms(use_true_random=False))
def test_the_order_of_the_images_changes_nothing(rows: list[tuple], random) -> None:
    shuffled = random.sample(rows, len(rows))
    one, other = columns(rows), columns(shuffled)
    assert count_flips(*one) == count_flips(*other)
    found, again = (calibration_error(old, labels) for old, _, labels in (one, other))
    assert found == pytest.approx(again, abs=1e-9)
    assert 0 <= found <= 100


def test_prompt_diversity_against_a_naive_loop() -> None:
    contexts = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    pairs = [
        1 - float(v[i].dot(v[j]) / (v[i].norm() * v[j].norm()))
        for v in contexts
        for i in range(4)
        for j in range(i)
    ]
    assert prompt_diversity(contexts) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert prompt_diversity(torch.ones(4, 6)) == pytest.approx(0, abs=1e-9)
    assert prompt_diversity(torch.eye(4)) == pytest.approx(1)
    assert prompt_diversity(torch.ones(1, 6)) is prompt_diversity(None) is None


def test_calibration_error_against_a_naive_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 5, generator=generator) * 3
    labels = torch.randint(0, 5, (200,), generator=generator)
    found = predict(logits)
    order = sorted(range(200), key=lambda i: float(found.confidence[i]))
    error, start = 0.0, 0
    for number in range(BINS):
        size = 200 // BINS + (number < 200 % BINS)
        chosen = order[start : start + size]
        start += size
        accuracy = sum(int(found.classes[i] == labels[i]) for i in chosen) / size
        confidence = sum(float(found.confidence[i]) for i in chosen) / size
        error += size / 200 * abs(accuracy - confidence)
    assert calibration_error(found, labels) == pytest.approx(100 * error)
