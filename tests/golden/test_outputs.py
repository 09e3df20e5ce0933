"""No number changes without a new version of the method, or of the harness, that gives it."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from outputs import FILE, OUTPUTS, REFRESH, renew

from compatbench.methods.kgcoop import KgCoOp

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))
SLOW = {"method linear_probe", "method proda", "method promptsrc"}
NAMES = [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in sorted(OUTPUTS)]


@pytest.mark.parametrize("name", NAMES)
def test_the_output_is_the_golden_one(name: str) -> None:
    kept = GOLDEN.get(name)
    assert renew(name, kept) == kept, f"{name} has a new version; run: {REFRESH}"


def test_no_golden_output_is_of_something_gone() -> None:
    assert GOLDEN.keys() == OUTPUTS.keys(), f"run: {REFRESH}"


def test_changed_numbers_need_a_new_version_to_become_golden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "method kgcoop"
    changed = copy.deepcopy(GOLDEN[name]["output"])
    changed["source"][0][0] *= 1.01
    monkeypatch.setitem(OUTPUTS, name, lambda: changed)
    with pytest.raises(ValueError, match=r"'kgcoop.1\+coop.1, engine 1'; raise `version` on the"):
        renew(name, GOLDEN[name])
    monkeypatch.setattr(KgCoOp, "card", dataclasses.replace(KgCoOp.card, version=2))
    entry = {"version": "kgcoop.2+coop.1, engine 1", "output": changed}
    assert renew(name, GOLDEN[name]) == entry
