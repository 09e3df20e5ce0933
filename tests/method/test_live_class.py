"""Classes of a notebook or a script in place of the names of methods."""

from __future__ import annotations

import linecache
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from compatbench.engine.plan import plan
from compatbench.errors import CompatbenchError
from compatbench.method.live_class import class_source, write_classes

IMPORTS = """
import torch
import torch.nn.functional as F

import compatbench as cb
from compatbench.method import Backbone, Classifier, FewShotData, Labels, Method, MethodCard, Module
"""
HELPERS = """
STEP = 0.5


def unit(rows):
    return F.normalize(rows, dim=-1)
"""
MINE = """
class Mine(Method):
    card = MethodCard("mine", "Mine", "unpublished", "feature", "moves features by their mean")

    class Config(Method.Config):
        step: float = STEP

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return Module({"mean": self.config.step * unit(data.train.plain).mean(0)})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        texts = backbone.zero_shot(labels)
        scale = backbone.logit_scale
        return lambda features: scale * unit(unit(features) + module["mean"]) @ texts.T
"""
SIZE = """
from dataclasses import dataclass


@dataclass(
    frozen=True,
)
class Size:
    x: int = 3
"""
NESTED = textwrap.indent(MINE, "    ").join(["def make():", "    return Mine\n\nMine = make()\n"])
Cell = Callable[[str], dict[str, Any]]


@pytest.fixture
def run_cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """Return a function that runs code as a notebook does, in a module without a file."""
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    cells: list[str] = []

    def run(code: str) -> dict[str, Any]:
        name = f"<ipython-input-{len(cells)}>"
        cells.append(name)
        linecache.cache[name] = len(code), None, code.splitlines(keepends=True), name
        exec(compile(code, name, "exec", dont_inherit=True), vars(module))
        return vars(module)

    run(IMPORTS)
    yield run  # type: ignore[misc]
    for name in cells:
        del linecache.cache[name]


def test_a_class_of_a_notebook_is_written_with_everything_that_it_uses(run_cell: Cell) -> None:
    run_cell(HELPERS)
    run_cell("module = features = object()")  # names of arguments, not of the module
    mine = run_cell(MINE)["Mine"]
    source = class_source(mine)
    defined: dict[str, Any] = {"__name__": "written"}
    exec(source, defined)
    assert defined["Mine"].card == mine.card
    assert defined["Mine"].Config().step == 0.5
    assert "import compatbench as cb" not in source  # nothing in the class uses it


def test_decorators_and_classes_without_functions_are_written_too(run_cell: Cell) -> None:
    run_cell(HELPERS)
    run_cell(SIZE)
    mine = run_cell(MINE.replace("* unit(data", "* Size().x * unit(data"))["Mine"]
    source = class_source(mine)
    assert "@dataclass(\n    frozen=True,\n)\nclass Size:" in source
    assert "from dataclasses import dataclass" in source


def test_another_version_of_a_class_has_other_keys(run_cell: Cell, tmp_path: Path) -> None:
    run_cell(HELPERS)
    keys = []
    for code in (MINE, MINE, MINE.replace("unit(features) +", "2 * unit(features) +")):
        mine = run_cell(code)["Mine"]
        keys.append([cell.key for cell in plan("smoke", [mine], out=tmp_path).cells])
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])
    run_cell("STEP = 0.25")
    other = [cell.key for cell in plan("smoke", mine, out=tmp_path).cells]
    assert not set(other) & set(keys[2])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (MINE, r"uses 'unit', a partial that cannot be written; define it in the class"),
        ("NAMES = {'a', 'b'}\n" + MINE.replace("= STEP", "= len(NAMES)"), "uses 'NAMES', a set"),
        ("SIZE = torch.Size([1])\n" + MINE.replace("= STEP", "= SIZE[0]"), "uses 'SIZE', a Size"),
        (MINE.replace("    card = ", "    about = "), "Mine is no method: a Method with a card"),
        (MINE.replace('"mine"', '"../mine"'), "a method cannot be named '../mine'"),
        (NESTED, "it is defined inside a function. Define it at the top level"),
    ],
)  # fmt: skip
def test_a_class_that_cannot_be_written_gets_one_clear_error(
    run_cell: Cell, tmp_path: Path, code: str, message: str
) -> None:
    run_cell("from functools import partial\nunit = partial(F.normalize, dim=-1)\nSTEP = 1.0")
    mine = run_cell(code)["Mine"]
    with pytest.raises(CompatbenchError, match=message) as error:
        write_classes([mine], tmp_path / "classes")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.py"))


def test_a_class_without_source_gets_one_clear_error(run_cell: Cell, tmp_path: Path) -> None:
    mine = run_cell(HELPERS + MINE)["Mine"]
    linecache.cache["<ipython-input-1>"] = 0, None, [], ""
    with pytest.raises(CompatbenchError, match="source of Mine cannot be read; write"):
        write_classes([mine], tmp_path)


@pytest.mark.slow
def test_a_script_fits_checks_and_runs_its_own_class(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""{IMPORTS}{HELPERS}{MINE}
if __name__ == "__main__":
    module = cb.fit(Mine, "mini-weather", "mini-clip", shots=1)
    print(cb.check(Mine, "same-seed").status.tolist(), list(module.trained))
    results = cb.run("smoke", [Mine, "zeroshot"], compute=cb.Compute(jobs=2))
    print(sorted(set(results.frame.method)))
""")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["['pass'] ['mean']", "['mine', 'zeroshot']"]
    assert (tmp_path / "results" / "classes" / "mine.py").is_file()
