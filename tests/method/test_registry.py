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
    name: str  # of the class in the file
    mark: str  # the statement by which its class is recognised
    torn: str  # a wrong statement in place of it
    refused: str  # the error about the wrong statement

    @property
    def example(self) -> str:
        """Return the text of the file."""
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
    """Forget the files that the test before has loaded."""
    for kind in KINDS.values():
        kind.builtin.cache_clear()  # type: ignore[attr-defined]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def test_example_in_the_docstring_works(kind: Kind, tmp_path: Path) -> None:
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
    method = builtin_methods().get("taskres") if kind.registry is TransferRegistry else cls
    tested = MethodUnderTest(method)
    module = tested.module
    target = tested.target
    images = target.encode_images(unseen_images())
    logits = tested.build().attach(module, target, LABELS)(images)
    assert logits.shape == (len(images), len(LABELS))
    if kind.registry is TransferRegistry:
        transfer = cls()
        data = TransferData(transfer)
        halfway = transfer.attach(tested.build(), module, target, LABELS, data)(images)
        assert not torch.equal(halfway, logits)
        assert (halfway - logits).abs().max() < logits.abs().max()


@pytest.mark.slow
def test_method_in_the_docstring_passes_every_check(tmp_path: Path) -> None:
    path = tmp_path / "means.py"
    path.write_text(KINDS["method"].example)
    found = cb.check(str(path))
    assert found.loc[found["status"] == "fail", "reason"].tolist() == []


# The content of a file, and the error.
WRONG = [
    (None, "file .* does not exist"),
    ("x = 1 / 0\n", "mine.py:1: ZeroDivisionError"),
    ("x = (\n", r"mine.py:1: SyntaxError: '\(' was never closed"),
    *[(code, "defines no {kind.registry.kind}: a ") for code in NOT_CONTENT],
    ("torn", "^{path}: {kind.refused}$"),
]


@pytest.mark.parametrize(("code", "message"), WRONG)
def test_unloadable_file_is_refused_with_its_path(
    kind: Kind, code: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    if code == "torn":
        code = kind.example.replace(kind.mark, kind.torn)
    if code is not None:
        path.write_text(code)
    with pytest.raises(CompatbenchError, match=message.format(path=path, kind=kind)):
        kind.registry().add_file(path)


def test_other_classes_in_a_file_are_ignored(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "mixed.py"
    path.write_text("".join(NOT_CONTENT) + kind.example)
    assert kind.registry().add_file(path) == [kind.name]


def test_error_about_a_duplicate_name_shows_both_files(kind: Kind, tmp_path: Path) -> None:
    registry = kind.registry()
    first = tmp_path / "one" / "twin.py"
    second = tmp_path / "two" / "twin.py"
    for path in (first, second):
        path.parent.mkdir()
        path.write_text(kind.example)
    registry.add_file(first)
    assert registry.add_file(first) == [kind.name]  # the same file again
    with pytest.raises(CompatbenchError, match=f"name '{kind.name}' is used twice") as error:
        registry.add_file(second)
    assert str(first) in str(error.value)
    assert str(second) in str(error.value)


@pytest.mark.filterwarnings("ignore:format:compatbench.errors.CompatbenchWarning")
def test_installed_package_adds_content(
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


def test_format_file_defines_exactly_one_format(tmp_path: Path) -> None:
    path = tmp_path / "two.py"
    example = KINDS["format"].example
    second = example.replace("Vectors", "More").replace('"vectors", "coop"', '"more", "coop"')
    path.write_text(f"{example}\n\n{second}")
    with pytest.raises(CompatbenchError, match="defines 2 formats; it should be one"):
        find_format(str(path))
    with pytest.raises(CompatbenchError, match=r"^no format named 'cop'; did you mean coop"):
        find_format("cop")
    assert find_format("clip-lora").name == "clip_lora"


def test_broken_file_does_not_affect_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_first_name_on_a_card_is_that_of_no_other_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its cells would take the keys of the other one."""
    example = KINDS["method"].example
    taken = example.replace("inserts=", 'was="coop", inserts=')
    (tmp_path / "a_means.py").write_text(taken)
    registry = MethodRegistry.installed()
    with pytest.raises(CompatbenchError, match=r"'means' has was='coop', which is a name of the"):
        registry.add_file(tmp_path / "a_means.py")
    assert "means" not in registry.classes
    # In the repository it is loaded before the method whose name it takes.
    package = import_module("compatbench.methods")
    monkeypatch.setattr(package, "__path__", [str(tmp_path), *package.__path__])
    files = [tmp_path / "a_means.py", content_folder("methods") / "coop.py"]
    monkeypatch.setattr("compatbench.method.registry.content_files", lambda kind: files)
    registry = MethodRegistry.installed()
    assert "'coop'" in registry.broken["means"]
    assert registry.get("coop").card.name == "coop"
    # A file from outside cannot take the first name of a method that was renamed.
    (tmp_path / "renamed.py").write_text(example.replace("inserts=", 'was="averages", inserts='))
    (tmp_path / "new.py").write_text(example.replace('"means"', '"averages"', 1))
    registry = MethodRegistry()
    registry.add_file(tmp_path / "renamed.py")
    with pytest.raises(
        CompatbenchError, match="'averages' is the first name of the method 'means'"
    ):
        registry.add_file(tmp_path / "new.py")
    assert registry.names() == ["means"]
