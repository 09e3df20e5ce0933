"""Options of a run are compared image by image while its store is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import compatbench as cb


@pytest.mark.slow
def test_options_of_a_run_are_compared_image_by_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cb.run("smoke", "tip_adapter,proker", transfers="copied,words", progress=False)
    [paired] = cb.advise("smoke").measured
    shutil.rmtree("runs")
    [unpaired] = cb.advise("smoke").measured
    options = ("proker copied", "proker words")
    first = paired.difference(*options)
    second = unpaired.difference(*options)
    assert first is not None
    assert second is not None
    assert first.value == pytest.approx(second.value)
    assert first.high - first.low < 0.7 * (second.high - second.low)
    for option in [*paired.options.index, "zero-shot", "proker old model"]:
        assert paired.difference(option) == unpaired.difference(option)
