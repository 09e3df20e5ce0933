"""Hashes of code: words and layout do not count, behaviour does."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from compatbench.method.code_hash import hash_code, hash_files, imported_methods

COUNTER = itertools.count()

CODE = '''\
"""A module."""

LIMIT = 3


def double(x):
    """Doubles."""
    # twice
    return 2 * x


class Thing:
    """A thing."""

    name = "thing"
'''


def hash_text(folder: Path, text: str) -> str:
    """The hash of a file with this text; a new file each time, for hashes are remembered."""
    path = folder / f"code{next(COUNTER)}.py"
    path.write_text(text, encoding="utf-8")
    return hash_code(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    # twice\n", ""),
        ("# twice", "# two times"),
        ('"""A module."""', '"""Another\n\nmodule."""'),
        ('"""Doubles."""', '"""Gives the double."""'),
        ('"""A thing."""', "'''Some thing.'''"),
        ("2 * x", "(2 *\n            x)"),
        ("\n\n\ndef", "\n\ndef"),
        ('name = "thing"', "name = 'thing'"),
        ("LIMIT = 3", "LIMIT   =   3"),
    ],
)
def test_words_and_layout_do_not_count(tmp_path: Path, old: str, new: str) -> None:
    assert old in CODE
    assert hash_text(tmp_path, CODE.replace(old, new)) == hash_text(tmp_path, CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2 * x", "3 * x"),
        ("2 * x", "x * 2"),
        ("LIMIT = 3", "LIMIT = 4"),
        ('name = "thing"', 'name = "think"'),
        ("def double", "def twice"),
        ("LIMIT = 3\n", ""),
        ("class Thing:", "class Thing(object):"),
    ],
)
def test_behaviour_counts(tmp_path: Path, old: str, new: str) -> None:
    assert old in CODE
    assert hash_text(tmp_path, CODE.replace(old, new)) != hash_text(tmp_path, CODE)


@pytest.mark.parametrize("docstring", ['"""A module."""\n\n', '    """Doubles."""\n'])
def test_a_docstring_taken_away_does_not_count(tmp_path: Path, docstring: str) -> None:
    assert docstring in CODE
    assert hash_text(tmp_path, CODE.replace(docstring, "")) == hash_text(tmp_path, CODE)


def test_a_file_that_is_not_python_is_hashed_by_its_bytes(tmp_path: Path) -> None:
    one, same, other = (hash_text(tmp_path, text) for text in ("def (", "def (", "def  ("))
    assert one == same
    assert one != other


def test_a_group_of_files_does_not_depend_on_order_or_folder(tmp_path: Path) -> None:
    paths = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name, text in (("a.py", "x = 1"), ("b.py", "y = 2")):
            (tmp_path / folder / name).write_text(text)
            paths.append(tmp_path / folder / name)
    a, b, other_a, other_b = paths
    assert hash_files([a, b]) == hash_files([b, a]) == hash_files([other_b, other_a])
    assert hash_files([a]) != hash_files([b])
    assert hash_files([a]) != hash_files([a, b])


@pytest.mark.parametrize(
    "statement",
    ["from .shared import f", "from . import shared", "from compatbench.methods.coop import X"],
)
def test_a_plug_in_s_hash_changes_with_what_it_imports(tmp_path: Path, statement: str) -> None:
    (tmp_path / "shared.py").write_text("f = 1\n", encoding="utf-8")
    plugin = tmp_path / "plugin.py"
    plugin.write_text(f"{statement}\n", encoding="utf-8")
    (found,) = imported_methods(plugin)
    assert found.name in ("shared.py", "coop.py")
    assert found.is_file()
