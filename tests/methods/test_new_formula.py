"""The two files that ``compatbench new-method`` writes agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.cli import new_method
from compatbench.cli.new_method import fill_template
from compatbench.method import FewShotData
from compatbench.method.registry import builtin_methods


def test_a_new_method_follows_its_formula(
    tmp_path: Path,
    float64: None,
    clip64: Backbone,
    data64: FewShotData,
    images64: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "my_affine.py"
    path.write_text(fill_template("my_affine"))
    monkeypatch.setattr(builtin_methods(), "classes", dict(builtin_methods().classes))
    builtin_methods().add_file(path)
    written: dict[str, Any] = {}
    exec(fill_template("my_affine", new_method._FORMULA), written)
    formula = written["FORMULA"]
    formula.check_logits(clip64, data64, images64)
    formula.check_first_step(clip64, data64)


def test_formulas_are_collected_by_the_name_of_their_method(pytestconfig: pytest.Config) -> None:
    assert "tests/methods/formulas/[a-z]*.py" in pytestconfig.getini("python_files")
