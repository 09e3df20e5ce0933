"""Pages that programs make say what they are made from."""

from __future__ import annotations

import authors_page
import pytest
import rosetta_page
from pages import DOCS, PAGES, make_files
from unrecorded_methods import UNRECORDED

from compatbench.data.cards import suite_cards
from compatbench.method.registry import builtin_methods, builtin_transfers

SLOW = {"api", "indexes", "intervals", "methods", "recipes", "rosetta", "scale"}
LISTS = {"authors", "methods", "recipes", "scale"}  # of all methods
ROUNDED = {"predict"}  # whose fits differ in their last digits on other processors


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in PAGES
        if name not in ROUNDED
    ],
)
def test_a_page_is_what_its_program_gives(name: str) -> None:
    if UNRECORDED and name in LISTS:
        pytest.skip(f"it is made after the merge: {', '.join(sorted(UNRECORDED))}")
    if name == "api":
        pytest.importorskip("griffe2md")
    for registered in (builtin_methods, builtin_transfers):
        registered.cache_clear()  # without what other tests have added
    for path, content in make_files(name).items():
        assert (DOCS / path).read_bytes() == content, f"run 'python benchmark/pages.py {name}'"


def test_a_fit_of_an_older_version_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = authors_page.list_versions() | {"gradfix": "gradfix.99"}
    monkeypatch.setattr(authors_page, "list_versions", lambda: versions)
    with pytest.raises(SystemExit, match=r"code: gradfix$"):
        make_files("authors")


def test_rosetta_is_reported_on_no_task_that_it_was_designed_on() -> None:
    suite = suite_cards.read("mini")
    parts = suite_cards.read(str(rosetta_page.HERE / "rosetta-parts.yaml"))
    assert {"mini-animals", "mini-icons", "mini-travel"} <= {*suite.development}
    assert not {*parts.tasks} & {*suite.development}
