"""Methods, transfers and formats: where they come from, and how they are chosen."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import compatbench as cb
import compatbench.methods
from compatbench.backbone import load_backbone
from compatbench.errors import CompatbenchError
from compatbench.extras.check.method_under_test import LABELS, MethodUnderTest, unseen_images
from compatbench.files.project_folders import content_folder
from compatbench.method.registry import (
    FormatRegistry,
    MethodRegistry,
    Registry,
    TransferRegistry,
    builtin_formats,
    builtin_methods,
    builtin_transfers,
    find_format,
)
from compatbench.method.transfer import TransferData


class Kind(NamedTuple):
    """A kind of content, and the file that the docstring of its root shows."""

    registry: type[Registry[Any]]
    builtin: Callable[[], Registry[Any]]
    name: str  # of what is in the file
    mark: str  # how the file marks its class
    torn: str  # a mark that is none
    refused: str  # what is said of it

    @property
    def example(self) -> str:
        """The file."""
        # Python 3.13 takes the indentation from docstrings, ``getdoc`` does so everywhere.
        doc = (inspect.getdoc(self.registry.root) or "").partition("file::\n\n")[2]
        return textwrap.dedent(doc.split("\nAttributes:")[0])


KINDS = {
    "method": Kind(
        MethodRegistry, builtin_methods, "means", "card = MethodCard(", "card = dict(",
        "the card of method class Means is a dict, not a MethodCard",
    ),
    "transfer": Kind(
        TransferRegistry, builtin_transfers, "halfway", "card = TransferCard(", "card = dict(",
        "the card of transfer class Halfway is a dict, not a TransferCard",
    ),
    "format": Kind(
        FormatRegistry, builtin_formats, "vectors", 'name, method = "vectors"', "name, method = 7",
        "the name of format class Vectors is a int, not a str",
    ),
}  # fmt: skip


NOT_CONTENT = ("", "Alias = list[int]\n", "class Other: card = name = 'other'\n")


@pytest.fixture(autouse=True)
def _fresh_registries() -> None:
    """A file that one test loads is not there for the next."""
    for kind in KINDS.values():
        kind.builtin.cache_clear()  # type: ignore[attr-defined]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def test_the_file_in_a_docstring_works(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(kind.example)
    registry = kind.registry()
    assert registry.add_file(path) == [kind.name]
    cls = registry.get(kind.name)
    if kind.registry is FormatRegistry:
        vectors = torch.ones(3, load_backbone("mini-clip").token_width)
        torch.save({"vectors": vectors}, tmp_path / "w.pt")
        module = cb.import_module(str(path), tmp_path / "w.pt", "mini-food", "mini-clip")
        assert torch.equal(module["context"], vectors)
        return
    tested = MethodUnderTest(
        cls if kind.registry is MethodRegistry else builtin_methods().get("taskres")
    )
    images = tested.target.encode_images(unseen_images())
    logits = tested.build().attach(tested.module, tested.target, LABELS)(images)
    assert logits.shape == (len(images), len(LABELS))
    if kind.registry is TransferRegistry:
        transfer = cls()
        given = tested.build(), tested.module, tested.target, LABELS
        halfway = transfer.attach(*given, TransferData(transfer))(images)
        assert not torch.equal(halfway, logits)
        assert (halfway - logits).abs().max() < logits.abs().max()


# What is in a file, and what is said of it.
WRONG = [
    (None, "file .* does not exist"),
    ("x = 1 / 0\n", "mine.py:1: ZeroDivisionError"),
    ("x = (\n", r"mine.py:1: SyntaxError: '\(' was never closed"),
    *[(code, "defines no {kind.registry.kind}: a ") for code in NOT_CONTENT],
    ("torn", "^{path}: {kind.refused}$"),
]


@pytest.mark.parametrize(("code", "message"), WRONG)
def test_a_file_that_cannot_be_loaded_is_named(
    kind: Kind, code: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    if code is not None:
        torn = kind.example.replace(kind.mark, kind.torn)
        path.write_text(torn if code == "torn" else code)
    with pytest.raises(CompatbenchError, match=message.format(path=path, kind=kind)):
        kind.registry().add_file(path)


def test_what_is_no_content_is_passed_over(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "mixed.py"
    path.write_text("".join(NOT_CONTENT) + kind.example)
    assert kind.registry().add_file(path) == [kind.name]


def test_a_name_taken_twice_names_both_files(kind: Kind, tmp_path: Path) -> None:
    registry = kind.registry()
    paths = [tmp_path / folder / "twin.py" for folder in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(kind.example)
    registry.add_file(paths[0])
    assert registry.add_file(paths[0]) == [kind.name]  # the same again
    with pytest.raises(CompatbenchError, match=f"name '{kind.name}' is used twice") as error:
        registry.add_file(paths[1])
    assert all(str(path) in str(error.value) for path in paths)


@pytest.mark.filterwarnings("ignore:format:compatbench.errors.CompatbenchWarning")
def test_an_installed_package_brings_content(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside_file.py").write_text(kind.example)
    folder = tmp_path / "outside-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        f"[compatbench.{kind.registry.kind}s]\n"
        "outside = outside_file\nworse = outside_file_2\nneither = pathlib:Path\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = kind.builtin()
    sys.modules.pop("outside_file")
    assert registry.select(f"{kind.name}") == [kind.name]
    assert "No module named 'outside_file_2'" in registry.broken["worse"]
    with pytest.raises(CompatbenchError, match="No module named 'outside_file_2'"):
        registry.get("worse")
    assert registry.broken.keys() == {"worse", "neither"}


def test_a_format_file_has_one_format(tmp_path: Path) -> None:
    path, example = tmp_path / "two.py", KINDS["format"].example
    second = example.replace("Vectors", "More").replace('"vectors", "coop"', '"more", "coop"')
    path.write_text(f"{example}\n\n{second}")
    with pytest.raises(CompatbenchError, match="defines 2 formats; it should be one"):
        find_format(str(path))
    with pytest.raises(CompatbenchError, match=r"^no format named 'cop'; did you mean coop"):
        find_format("cop")
    assert find_format("clip-lora").name == "clip_lora"


def test_a_broken_file_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_one.py").write_text("x = 1\nraise ValueError('by design')\n")
    package = import_module("compatbench.methods")
    monkeypatch.setattr(package, "__path__", [str(tmp_path), *package.__path__])
    files = [content_folder("methods") / "coop.py", tmp_path / "broken_one.py"]
    monkeypatch.setattr("compatbench.method.registry.content_files", lambda kind: files)
    registry = builtin_methods()
    why = f"{tmp_path / 'broken_one.py'}:2: ValueError: by design"
    assert registry.broken == {"broken_one": why}
    assert "broken_one" not in registry.select("all")
    with pytest.raises(CompatbenchError, match="ValueError: by design"):
        registry.select("coop,broken_one")
