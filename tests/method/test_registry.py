"""Where methods come from, and how they are chosen."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from compatbench.cli.authoring import fill_template
from compatbench.errors import CompatbenchError
from compatbench.extras.check.run_checks import check_methods
from compatbench.files.project_folders import content_folder
from compatbench.method.registry import MethodRegistry, builtin_methods


@pytest.fixture(autouse=True)
def _fresh_registry() -> None:
    """A file that one test loads is not there for the next."""
    builtin_methods.cache_clear()


def test_a_broken_file_is_named_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_one.py").write_text("x = 1\nraise ValueError('by design')\n")
    package = import_module("compatbench.methods")
    monkeypatch.setattr(package, "__path__", [str(tmp_path), *package.__path__])
    files = [content_folder("methods") / "coop.py", tmp_path / "broken_one.py"]
    for module in ("method.registry", "engine.confined.remote"):
        monkeypatch.setattr(f"compatbench.{module}.content_files", lambda kind: files)
    registry = builtin_methods()
    assert registry.broken == {
        "broken_one": f"{tmp_path / 'broken_one.py'}:2: ValueError: by design"
    }
    assert "broken_one" not in registry.select("all")
    with pytest.raises(CompatbenchError, match="ValueError: by design"):
        registry.select("coop,broken_one")
    [torn] = [o for o in check_methods("all", "card").itertuples() if o.status == "fail"]
    assert torn.method == "broken_one"


def test_an_installed_package_brings_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside_method.py").write_text(fill_template("outside"))
    folder = tmp_path / "outside-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[compatbench.methods]\noutside = outside_method\nworse = outside_method_2\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = builtin_methods()
    assert registry.select("outside") == ["outside"]
    assert "No module named 'outside_method_2'" in registry.broken["worse"]


def test_a_name_taken_twice_names_both_files(tmp_path: Path) -> None:
    registry = MethodRegistry()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.py").write_text(fill_template("twin"))
    registry.add_file(tmp_path / "one" / "one.py")
    with pytest.raises(CompatbenchError) as error:
        registry.add_file(tmp_path / "two" / "two.py")
    assert all(str(tmp_path / f / f"{f}.py") in str(error.value) for f in ("one", "two"))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("all", {"coop", "kgcoop", "zeroshot", "tip_adapter_f"}),
        ("all,!coop", {"kgcoop", "zeroshot", "tip_adapter_f"}),
        ("!*coop", {"zeroshot", "tip_adapter_f"}),
        ("*coop,!kg*", {"coop"}),
        ("zeroshot,tip*", {"zeroshot", "tip_adapter_f"}),
    ],
)
def test_selections(wanted: str, expected: set[str]) -> None:
    known = builtin_methods().classes
    names = ("coop", "kgcoop", "zeroshot", "tip_adapter_f")
    registry = MethodRegistry({name: known[name] for name in names})
    chosen = registry.select(wanted)
    assert set(chosen) == expected
    assert chosen == [name for name in registry.names() if name in expected]
