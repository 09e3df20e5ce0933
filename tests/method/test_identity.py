"""The identity of a method's code: a version for own code, a hash for code from outside."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from planning import add_methods, cells_of

from compatbench.errors import CompatbenchError
from compatbench.method import Method, MethodCard
from compatbench.method.identity import method_identity
from compatbench.method.registry import MethodRegistry, builtin_methods
from compatbench.methods.coop import CoOp
from compatbench.methods.kgcoop import KgCoOp

METHOD = """\
{top}
from compatbench.method import MethodCard
from compatbench.methods.zeroshot import ZeroShot

class Mine(ZeroShot):
    card = MethodCard("mine", "Mine", "none", "none", "test", learns=False, files={files})

    def attach(self, module, backbone, labels):
        {inner}
        return super().attach(module, backbone, labels)
"""


def write(folder: Path, top: str = "", inner: str = "pass", files: tuple[str, ...] = ()) -> Path:
    """A method file ``mine.py`` in a folder, with an import at its top or in a function."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.py"
    path.write_text(METHOD.format(top=top, inner=inner, files=files), encoding="utf-8")
    return path


def load(path: Path, name: str = "mine") -> type[Method]:
    registry = MethodRegistry()
    registry.add_file(path)
    return registry.get(name)


def identity(path: Path) -> str:
    """Return the identity of a method's code, as keys contain it."""
    return method_identity(load(path))


@pytest.fixture
def neighbours(tmp_path: Path) -> Path:
    """A folder with two packages and two modules, each of one number."""
    names = ("mypkg/__init__", "mypkg/x", "mypkg/deep", "sub/__init__", "sub/x")
    for name in (*names, "sibling", "unused"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("f = 1\n", encoding="utf-8")
    (tmp_path / "mypkg" / "x.py").write_text("from .deep import f\n", encoding="utf-8")
    return tmp_path


# A statement in a method's file, and the file that it leads to.
LEADS = {
    "from .sub.x import f": "sub/x.py",
    "from .sub import x": "sub/x.py",
    "from . import sibling": "sibling.py",
    "from .mypkg import f": "mypkg/__init__.py",
    "from .mypkg import *": "mypkg/x.py",
    "from .mypkg.x import f": "mypkg/deep.py",
    "from . import mypkg": "mypkg/__init__.py",
    "from .sibling import f as y": "sibling.py",
}
PLACES = [
    *[("top", *row) for row in LEADS.items()],
    *[("inner", *row) for row in LEADS.items() if "*" not in row[0]],
    ("inner", "from .nowhere import f", "nowhere.py"),  # the file does not exist at first
]


@pytest.mark.parametrize(("place", "statement", "edited"), PLACES)
def test_editing_an_imported_file_changes_the_identity(
    neighbours: Path, place: str, statement: str, edited: str
) -> None:
    """Other files do not count, nor do files named like an installed package."""
    path = write(neighbours, **{place: f"import json, numpy; {statement}"})
    before = identity(path)
    for other in ("unused.py", "numpy/x.py"):
        (neighbours / other).parent.mkdir(exist_ok=True)
        (neighbours / other).write_text("f = 2\n", encoding="utf-8")
    assert identity(path) == before
    (neighbours / edited).write_text("f = 2\n", encoding="utf-8")
    assert identity(path) != before


def test_identity_covers_the_packages_around_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "outer" / "inner", "from ..shared import f\nfrom ..other import g")
    for name in ("__init__", "inner/__init__", "shared", "other"):
        (tmp_path / "outer" / f"{name}.py").write_text("f = g = 1\n", encoding="utf-8")
    seen = {identity(path)}
    for count, name in enumerate(("__init__", "inner/__init__", "shared", "other"), start=2):
        (tmp_path / "outer" / f"{name}.py").write_text("f = g = 2\n", encoding="utf-8")
        seen.add(identity(path))
        assert len(seen) == count


@pytest.mark.parametrize("place", ["top", "inner"])
@pytest.mark.parametrize("statement", ["import mypkg.x", "from sibling import f", "import json"])
def test_absolute_import_of_a_neighbour_suggests_a_relative_one(
    neighbours: Path, place: str, statement: str
) -> None:
    """This includes a neighbour named like another module: it is unclear which one is meant."""
    (neighbours / "json.py").touch()
    path = write(neighbours, **{place: statement})
    name = statement.split()[1].partition(".")[0]
    with pytest.raises(CompatbenchError, match=rf"^{path}: .*; write 'from \. import {name}'"):
        load(path)


def test_identity_covers_neighbours_on_the_python_path(
    neighbours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(neighbours))
    path = write(neighbours, inner="import mypkg.x")
    before = identity(path)
    (neighbours / "mypkg" / "deep.py").write_text("f = 2\n")
    assert identity(path) != before


def test_modules_built_into_python_can_be_imported(tmp_path: Path) -> None:
    assert "time" in sys.builtin_module_names
    assert identity(write(tmp_path, top="import time"))


def test_importing_from_a_folder_without_init_is_refused(neighbours: Path) -> None:
    (neighbours / "sub" / "__init__.py").unlink()
    with pytest.raises(CompatbenchError, match=r"import from .*/sub, put an '__init__\.py' there"):
        load(write(neighbours, "from .sub.x import f"))


def test_edit_within_a_second_is_noticed(tmp_path: Path) -> None:
    """Size and second of both files are equal, so Python would use the old compiled file."""
    found = []
    for number in (1, 2):
        (tmp_path / "helper.py").write_text(f"f = {number}\n")
        os.utime(tmp_path / "helper.py", (1e9, 1e9))
        method = load(write(tmp_path, "from .helper import f", "return f"))()
        found.append(method.attach(None, None, None))  # type: ignore[arg-type]
    assert found == [1, 2]


def test_identity_covers_the_data_files_of_the_card(tmp_path: Path) -> None:
    path = write(tmp_path, files=("words.txt",))
    (tmp_path / "words.txt").write_text("one")
    before = identity(path)
    (tmp_path / "words.txt").write_text("one ")
    assert identity(path) != before
    (tmp_path / "words.txt").unlink()
    with pytest.raises(CompatbenchError, match=r"mine\.py: the card of 'mine' .*words\.txt"):
        identity(path)


def test_files_of_the_same_name_in_two_folders_are_separate(tmp_path: Path) -> None:
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        path = write(folder, "from . import helper", "from . import late; return helper.f, late.f")
        path.write_text(path.read_text().replace('"mine"', f'"mine{number}"'))
        for name in ("helper", "late"):
            (folder / f"{name}.py").write_text(f"f = {number}\n")
        found.append(load(path, f"mine{number}")())
    for number, method in enumerate(found, start=1):
        assert method.attach(None, None, None) == (number, number)  # type: ignore[arg-type]
    assert "helper" not in sys.modules


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Install a package with an entry point, and return the identity of its method."""
    folder = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(folder))
    folder.mkdir()

    def load(entry: str, name: str = "mine") -> str:
        about = folder / "bought-1.0.dist-info"
        about.mkdir(exist_ok=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bought\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[compatbench.methods]\nmine = {entry}\n")
        for module in list(sys.modules):
            if module.partition(".")[0] in ("bought", "mine"):
                del sys.modules[module]
        builtin_methods.cache_clear()
        return method_identity(builtin_methods().get(name))

    yield load  # type: ignore[misc]
    builtin_methods.cache_clear()


@pytest.mark.parametrize("entry", ["bought", "bought:Mine", "bought.parts.mine", "mine"])
def test_identity_covers_every_file_of_an_installed_package(
    tmp_path: Path, installed: Callable[[str], str], entry: str
) -> None:
    folder = tmp_path / "site-packages"
    files = {"bought/__init__.py": "from .parts.mine import Mine\n", "bought/data.py": ""}
    for name, content in (files | {"another/__init__.py": ""}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    if entry == "mine":
        own = write(folder, "import another")
    else:
        write(folder / "bought" / "parts")
        own = folder / "bought" / "data.py"
    before = installed(entry)
    (folder / "another" / "__init__.py").write_text("f = 2\n")
    assert installed(entry) == before
    own.write_text(own.read_text() + "f = 2\n")
    assert installed(entry) != before


def test_own_methods_are_identified_by_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert method_identity(KgCoOp) == "kgcoop.1+coop.1"
    path = write(tmp_path)
    path.write_text(path.read_text().replace("ZeroShot", "CoOp").replace("zeroshot", "coop"))
    before = method_identity(load(path))
    assert before.endswith("+coop.1")
    card = dataclasses.replace(CoOp.card, name="other", was="coop", version=2)
    monkeypatch.setattr(CoOp, "card", card)
    assert method_identity(KgCoOp) == "kgcoop.1+coop.2"
    assert method_identity(load(path)) == before.removesuffix("1") + "2"
    assert MethodCard("a", "A", "", "none", "").identity == "a"


def test_plan_changes_keys_when_an_imported_file_changes(neighbours: Path) -> None:
    path = write(neighbours, "from .mypkg.x import f")

    def keys() -> set[str]:
        return {cell.key for cell in cells_of("smoke", add_methods(path))}

    before = keys()
    assert keys() == before
    (neighbours / "mypkg" / "deep.py").write_text("f = 2\n")
    assert keys().isdisjoint(before)
