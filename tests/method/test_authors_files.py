"""What is wrong with a file that cannot be loaded is told in a line, with the author's place."""

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
# What is written instead of what, and the line that is then told.
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
def test_a_mistake_in_a_file_is_told_in_a_line(
    right: str, wrong: str, message: str, tmp_path: Path
) -> None:
    assert FILE.count(right) == 1
    path = tmp_path / "mine.py"
    path.write_text(FILE.replace(right, wrong))
    with pytest.raises(CompatbenchError) as raised:
        MethodRegistry().add_file(path)
    assert str(raised.value).startswith(f"{path}{message}")
    assert "http" not in str(raised.value)


def test_an_import_from_a_folder_of_the_repository_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sys.path", [place for place in sys.path if not (Path(place) / "methods").is_dir()]
    )
    path = tmp_path / "mine.py"
    path.write_text(f"from methods.coop import CoOp\n{FILE}")
    with pytest.raises(CompatbenchError, match=r"mine.py:1: .*; write 'from compatbench.methods"):
        MethodRegistry().add_file(path)


def test_a_cell_that_fails_tells_the_author_s_own_line(tmp_path: Path) -> None:
    """Not that of the harness, or of the library, in which the error is raised."""
    path, registry = tmp_path / "mine.py", MethodRegistry()
    path.write_text(FILE.replace("labels) *", "labels) @ module['scale'].new_ones(7) *"))
    registry.add_file(path)
    backbone: Any = SimpleNamespace(zero_shot=lambda _: torch.ones(2, 3))
    method: Any = registry.get("mine")()
    with pytest.raises(Exception) as raised:  # noqa: PT011  whatever torch says
        method.attach({"scale": torch.ones(3)}, backbone, None)
    error = explain(raised.value)
    assert error.startswith("RuntimeError: ")
    assert error.endswith("(mine.py:15)")
