"""No number changes without a new version of its method or of the harness."""

from __future__ import annotations

import copy
import dataclasses

import pytest
from outputs import FOLDER, OUTPUTS, REFRESH, path_of, read, renew, version_of

from compatbench.methods.kgcoop import KgCoOp

SLOW = {"method linear_probe", "method proda", "method promptsrc"}
NAMES = []
for name in sorted(OUTPUTS):
    marks = [pytest.mark.slow] if name in SLOW else []
    NAMES.append(pytest.param(name, marks=marks))


@pytest.mark.parametrize("name", NAMES)
def test_output_equals_the_golden_one(name: str) -> None:
    kept = read(name)
    if name.startswith("method ") and (kept is None or kept["version"] != version_of(name)):
        pytest.skip("it is new, or has a new version: 'python tests/golden/outputs.py' writes it")
    assert renew(name, kept) == kept, f"{name} has a new version; run: {REFRESH}"


def test_every_harness_output_has_a_golden_file() -> None:
    needed = {path_of(name) for name in OUTPUTS if not name.startswith("method ")}
    assert needed <= {*FOLDER.glob("*.json")}, f"run: {REFRESH}"


def test_changed_numbers_need_a_new_version_to_become_golden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "method kgcoop"
    kept = read(name)
    changed = copy.deepcopy(kept["output"])
    changed["source"][0][0] *= 1.01
    monkeypatch.setitem(OUTPUTS, name, lambda: changed)
    with pytest.raises(ValueError, match=r"'kgcoop.1\+coop.1, engine 1'; raise `version` on the"):
        renew(name, kept)
    monkeypatch.setattr(KgCoOp, "card", dataclasses.replace(KgCoOp.card, version=2))
    entry = {"version": "kgcoop.2+coop.1, engine 1", "output": changed}
    assert renew(name, kept) == entry
