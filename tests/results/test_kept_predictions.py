"""Predictions that are results: packed, read again, and scored without a run store."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compatbench.errors import CompatbenchError
from compatbench.method.predictions import Predictions
from compatbench.results.kept_predictions import pack_predictions, read_kept

Where = tuple[str, str, str]
KEYS = st.sampled_from(["a" * 64, "b" * 64, "0" * 64])
PLACES = st.tuples(st.sampled_from(["old", "new"]), st.sampled_from(["pets", "dtd"]), st.just("x"))
# Refused images are of class -1; the most classes need every type from one byte on.
ANSWERS = st.tuples(st.sampled_from([-1, 0]), st.sampled_from([1, 127, 255, 300, 40_000])).flatmap(
    lambda ends: st.lists(st.tuples(st.integers(*ends), st.floats(0, 1, width=16)), min_size=1)
)


def rows_of(places: list[tuple[str, Where]]) -> pd.DataFrame:
    columns = ["key", "backbone", "test_set", "data"]
    table = pd.DataFrame([(key, *where) for key, where in places], columns=columns)
    return table.assign(status="ok")


@given(st.dictionaries(st.tuples(KEYS, PLACES), ANSWERS, min_size=1))
def test_what_is_packed_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, answers: dict[tuple[str, Where], list]
) -> None:
    by_cell: dict[str, dict[Where, Predictions]] = {}
    images = {where[:2]: answer for (_, where), answer in answers.items()}  # one test set, one size
    for key, where in answers:
        classes, confidence = zip(*images[where[:2]], strict=True)
        each = Predictions(torch.tensor(classes, dtype=torch.int32), torch.tensor(confidence))
        by_cell.setdefault(key, {})[where] = each
    folder = tmp_path_factory.mktemp("suite")
    content = pack_predictions(by_cell, rows_of(list(answers)))
    (folder / "coop.safetensors").write_bytes(content)
    again = read_kept(folder, "coop")
    assert {key: set(places) for key, places in again.items()} == {
        key: set(places) for key, places in by_cell.items()
    }
    for key, places in by_cell.items():
        for where, each in places.items():
            assert torch.equal(again[key][where].classes, each.classes)
            assert torch.equal(again[key][where].confidence, each.confidence)
    assert pack_predictions(again, rows_of(sorted(answers))) == content


def test_predictions_of_no_row_are_not_packed_and_a_cut_file_is_named(tmp_path: Path) -> None:
    where: Where = ("old", "pets", "x")
    answers = Predictions(torch.tensor([1, 0], dtype=torch.int32), torch.tensor([0.5, 1.0]))
    by_cell = {"a" * 64: {where: answers}, "b" * 64: {where: answers}}
    path = tmp_path / "coop.safetensors"
    path.write_bytes(pack_predictions(by_cell, rows_of([("a" * 64, where)])))
    assert list(read_kept(tmp_path, "coop")) == ["a" * 64]
    assert read_kept(tmp_path, "taskres") == {}
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CompatbenchError, match=r"coop\.safetensors"):
        read_kept(tmp_path, "coop")
