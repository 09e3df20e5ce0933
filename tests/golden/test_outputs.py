"""No number changes without a new version of the method, or of the harness, that gives it."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path

import pytest
from outputs import FILE, OUTPUTS, REFRESH, load_golden, moved, refresh, refusal, version_of

from compatbench.methods.kgcoop import KgCoOp

GOLDEN = load_golden()
SLOW = {"method linear_probe", "method proda", "method promptsrc"}
NAMES = [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in sorted(OUTPUTS)]


@pytest.mark.parametrize("name", NAMES)
def test_the_output_is_the_golden_one(name: str) -> None:
    found = OUTPUTS[name]()
    if line := refusal(name, found, GOLDEN):
        pytest.fail(line, pytrace=False)
    entry = GOLDEN.get(name, {"version": "none", "output": {}})
    assert entry["version"] == version_of(name), f"{name} has a new version; run: {REFRESH}"
    assert not moved(entry["output"], found)


def test_no_golden_output_is_of_something_gone() -> None:
    assert GOLDEN.keys() == OUTPUTS.keys(), f"run: {REFRESH}"


def test_changed_numbers_need_a_new_version_to_become_golden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, name = tmp_path / "golden.json", "method kgcoop"
    shutil.copy(FILE, file)
    [[kept, *_], *_] = GOLDEN[name]["output"]["source"]
    changed = copy.deepcopy(GOLDEN[name]["output"])
    changed["source"][0][0] = kept * 1.01
    monkeypatch.setitem(OUTPUTS, name, lambda: changed)
    [line] = refresh([name], file)
    assert "still 'kgcoop.1+coop.1, engine 1'; raise `version` on the card" in line
    assert load_golden(file)[name] == GOLDEN[name]
    monkeypatch.setattr(KgCoOp, "card", dataclasses.replace(KgCoOp.card, version=2))
    assert refresh([name], file) == []
    entry = {"version": "kgcoop.2+coop.1, engine 1", "output": changed}
    assert load_golden(file)[name] == entry
