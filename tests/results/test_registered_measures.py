"""The registry of measures, and the stored ones against naive loops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_results import (
    CELLS,
    COOP,
    TWO_BY_TWO,
    UPGRADE,
    make_method,
    make_pairs,
    make_row,
    make_suite,
)

from compatbench.method.predictions import Predictions, predict
from compatbench.results.measures import Answers, list_measures, measure, score
from compatbench.results.measures.standard import BINS
from compatbench.results.ranking import rank_methods
from compatbench.results.rows import Row, parse_csv, to_frame, write_csv

# Predictions on the target and on the source, zero-shot's, labels; and the target's confidence.
IMAGES = st.lists(
    st.tuples(*[st.integers(0, 3)] * 4, st.floats(0.25, 1, width=32)),
    min_size=1,
)
FLIPS = ("negative_flips", "positive_flips", "inconsistent_errors")
COUNTS = ("correct", "total", "zero_shot_correct", *FLIPS)
SHARES = ("ece", "agreement", "ece_width", "changed")
PAIRED = ("only_module", "only_zeroshot")
STORED = dict.fromkeys([*COUNTS, *PAIRED], "images") | dict.fromkeys(SHARES, "percent")


def predictions(classes: list[int], confidence: list[float] | None = None) -> Predictions:
    return Predictions(
        torch.tensor(classes, dtype=torch.int32),
        torch.tensor(confidence or [0.5] * len(classes), dtype=torch.float32),
    )


def answers_of(images: list[tuple]) -> Answers:
    target, source, zero_shot, labels, confidence = map(list, zip(*images, strict=True))
    return Answers(
        predictions(target, confidence), predictions(source), predictions(zero_shot), labels
    )


def test_the_stored_measures_are_these() -> None:
    assert {name: one.unit for name, one in list_measures("answers").items()} == STORED
    for kind in ("answers", "row", "upgrade"):
        for name, one in list_measures(kind).items():
            assert (one.name, one.kind) == (name, kind)
            assert one.title
            assert one.sentence[0].islower() or not one.sentence[0].isalpha()
            assert one.sentence[-1] != "."


@given(IMAGES)
def test_scores_against_a_naive_loop(images: list[tuple]) -> None:
    expected: dict[str, float] = dict.fromkeys(STORED, 0)
    for target, source, zero_shot, label, _ in images:
        expected["total"] += 1
        expected["correct"] += target == label
        expected["zero_shot_correct"] += zero_shot == label
        expected["negative_flips"] += source == label != target
        expected["positive_flips"] += target == label != source
        expected["inconsistent_errors"] += len({source, target, label}) == 3
        expected["agreement"] += source == target
        expected["changed"] += zero_shot != target
        expected["only_module"] += target == label != zero_shot
        expected["only_zeroshot"] += zero_shot == label != target
    for name in ("agreement", "changed"):
        expected[name] = round(100 * expected[name] / len(images), 4)
    found = score(answers_of(images))
    assert found.keys() == STORED.keys()
    counts = {name: int(found[name] or 0) for name in (*COUNTS, *PAIRED)}
    gained = counts["correct"] - counts["zero_shot_correct"]
    assert counts["only_module"] - counts["only_zeroshot"] == gained
    apart = {"ece": 0, "ece_width": 0}
    assert found | apart == expected | apart


def test_calibration_against_a_naive_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (200,), generator=generator)
    found = predict(torch.randn(200, 5, generator=generator) * 3)
    order = sorted(range(200), key=lambda i: float(found.confidence[i]))
    error = 0.0
    start = 0
    for number in range(BINS):
        size = 200 // BINS + (number < 200 % BINS)
        chosen = order[start : start + size]
        start += size
        right = sum(int(found.classes[i] == labels[i]) for i in chosen) / size
        sure = sum(float(found.confidence[i]) for i in chosen) / size
        error += size / 200 * abs(right - sure)
    scores = score(Answers(found, None, found, labels))
    assert scores["ece"] == pytest.approx(100 * error, abs=1e-4)

    error = 0.0
    for number in range(15):
        low = number / 15
        high = (number + 1) / 15
        chosen = [i for i in range(200) if low < found.confidence[i] <= high]
        right = sum(int(found.classes[i] == labels[i]) for i in chosen)
        error += abs(right - sum(float(found.confidence[i]) for i in chosen)) / 200
    assert scores["ece_width"] == pytest.approx(100 * error, abs=1e-4)


@given(IMAGES, st.randoms(use_true_random=False))
def test_the_order_of_the_images_changes_nothing(images: list[tuple], random) -> None:
    shuffled = random.sample(images, len(images))
    assert score(answers_of(images)) == pytest.approx(score(answers_of(shuffled)), abs=2e-4)


def test_on_the_source_nothing_is_compared_with_the_source() -> None:
    found = score(Answers(predictions([0, 1]), None, predictions([1, 1]), [0, 0]))
    missing = [name for name, value in found.items() if value is None]
    assert missing == [*FLIPS, "agreement"]
    assert (found["correct"], found["zero_shot_correct"]) == (1, 0)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="two measures 'correct'"):

        @measure("Again", "images")
        def correct(answers: Answers) -> int:
            return 0


@pytest.mark.parametrize("agreement", [62.5, None])
def test_a_measure_in_a_file_of_its_own_is_in_results_files_frames_and_rankings(
    agreement: float | None,
) -> None:
    rows = [
        row if row.backbone == row.source else row.model_copy(update={"agreement": agreement})
        for row in make_pairs(dict.fromkeys(CELLS, (60, 50)))
    ]
    text = write_csv(to_frame(rows, Row))
    # Files of before the measure was added do not have its column.
    assert ("agreement" in text) == (agreement is not None)
    method = replace(make_method(COOP, rows), rows=parse_csv(text.encode(), Path("coop.csv"), Row))
    suite = make_suite(method)
    targets = suite.frame.loc[suite.frame["backbone"] == "new", "agreement"]
    assert targets.isna().all() if agreement is None else set(targets) == {agreement}
    ranking = rank_methods(suite, TWO_BY_TWO, [UPGRADE], 4)
    assert ranking["agreement"].tolist() == pytest.approx([agreement or np.nan], nan_ok=True)


def test_a_row_without_a_number_has_no_measure_at_all() -> None:
    with pytest.raises(ValueError, match="a row that is not ok has no counts"):
        make_row(None, status="not transferable", reason="sizes", agreement=50)
