"""Errors about a method file are one line, with the line of the author's code."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compatbench.errors import CompatbenchError
from compatbench.method.mistakes import explain
from compatbench.method.registry import MethodRegistry

FILE = """\
from compatbench.method import CosineClassifier, MethodCard, Module
from compatbench.method.trained import Recipe, TrainedMethod


class Mine(TrainedMethod):
    card = MethodCard("mine", "Mine", "none", inserts="feature", summary="a scale")

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(lr=0.1)

    def init(self, backbone, data, rng):
        return Module(trained={"scale": data.train.plain.new_ones(backbone.embed_dim)})

    def attach(self, module, backbone, labels):
        return CosineClassifier(backbone.zero_shot(labels) * module["scale"], 1.0)
"""
# Right text, the wrong text in its place, and the error.
MISTAKES = [
    ("lr=0.1", "lr=-0.1", ":9: Recipe: field 'lr': Input should be greater than 0"),
    ("lr=0.1", "rate=0.1", ":9: Recipe: field 'rate': Extra inputs are not permitted"),
    ("recipe: Recipe =", "recipe =", ":8: PydanticUserError: "),
    ("recipe: Recipe = Recipe(lr=0.1)", "weight = 2.0", ":8: PydanticUserError: A non-annotated"),
    ('="feature"', '="features"', ":6: no card's 'inserts' named 'features'; did you mean feature"),
    ('="feature"', '=("feature", "mlp")', ":6: no card's 'inserts' named 'mlp'; known: none, "),
    ('"a scale"', '"", needs={"unlabeled"}', ":6: no card's 'needs' named 'unlabeled'; did you"),
    ('"a scale"', '"", needs="stream"', ":6: the card's needs='stream': write needs={'stream'}"),
    ('"a scale"', '"", files=("mine.json")', ":6: the card's files='mine.json': write files=('mi"),
    ("inserts", "insert", ":6: TypeError: MethodCard.__init__() got an unexpected keyword"),
    ("def attach(", "def attached(", ": method class Mine has no attach"),
    ("def init(", "def initialise(", ": method class Mine has no init"),
]


@pytest.mark.parametrize(("right", "wrong", "message"), MISTAKES)
def test_mistake_in_a_method_file_is_reported_with_its_line(
    right: str, wrong: str, message: str, tmp_path: Path
) -> None:
    assert FILE.count(right) == 1
    path = tmp_path / "mine.py"
    path.write_text(FILE.replace(right, wrong))
    with pytest.raises(CompatbenchError) as raised:
        MethodRegistry().add_file(path)
    assert str(raised.value).startswith(f"{path}{message}")
    assert "http" not in str(raised.value)


def test_import_from_a_repository_folder_suggests_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [place for place in sys.path if not (Path(place) / "methods").is_dir()]
    monkeypatch.setattr("sys.path", places)
    path = tmp_path / "mine.py"
    path.write_text(f"from methods.coop import CoOp\n{FILE}")
    with pytest.raises(CompatbenchError, match=r"mine.py:1: .*; write 'from compatbench.methods"):
        MethodRegistry().add_file(path)


def test_error_of_a_cell_names_the_authors_line(tmp_path: Path) -> None:
    """It does not name the line of the library that raised the error."""
    path = tmp_path / "mine.py"
    registry = MethodRegistry()
    path.write_text(FILE.replace("labels) *", "labels) @ module['scale'].new_ones(7) *"))
    registry.add_file(path)
    backbone: Any = SimpleNamespace(zero_shot=lambda _: torch.ones(2, 3))
    method: Any = registry.get("mine")()
    with pytest.raises(Exception) as raised:  # noqa: PT011  the text is torch's
        method.attach({"scale": torch.ones(3)}, backbone, None)
    error = explain(raised.value)
    assert error.startswith("RuntimeError: ")
    assert error.endswith("(mine.py:15)")
