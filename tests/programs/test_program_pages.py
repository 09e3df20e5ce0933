"""Generated pages of docs/ are up to date, and their facts are those of papers and code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import authors_page
import pytest
from methods_page import DRAWS, read_idea, write_size
from pages import DOCS, PAGES, make_files
from unrecorded_methods import UNRECORDED

from compatbench.engine.request import make_request
from compatbench.method.registry import builtin_methods, builtin_transfers
from compatbench.tables.pages.method_pages import read_facts

SLOW = {"findings", "methods", "protocol", "recipes"}
LISTS = {"authors", "methods", "recipes"}  # of all methods


def pages_with_marks() -> list[Any]:
    pages = []
    for name in PAGES:
        marks = [pytest.mark.slow] if name in SLOW else []
        pages.append(pytest.param(name, marks=marks))
    return pages


@pytest.mark.parametrize("name", pages_with_marks())
def test_a_committed_page_equals_what_its_program_makes(name: str) -> None:
    if UNRECORDED and name in LISTS:
        pytest.skip(f"it will be made after the merge: {', '.join(sorted(UNRECORDED))}")
    for registered in (builtin_methods, builtin_transfers):
        registered.cache_clear()  # other tests have added content
    for path, content in make_files(name).items():
        assert (DOCS / path).read_bytes() == content, f"run 'python benchmark/pages.py {name}'"


def test_the_authors_page_needs_fits_of_this_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = authors_page.list_versions() | {"gradfix": "gradfix.99"}
    monkeypatch.setattr(authors_page, "list_versions", lambda: versions)
    with pytest.raises(SystemExit, match=r"code: gradfix$"):
        make_files("authors")


def test_the_authors_page_says_why_a_method_was_not_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coop = builtin_methods().get("coop")

    class Novel(coop):  # type: ignore[valid-type, misc]
        card = replace(coop.card, name="novel", paper="arXiv:2601.00001")

    versions = authors_page.list_versions()
    monkeypatch.setattr(authors_page, "list_versions", lambda: versions)
    monkeypatch.setitem(builtin_methods().classes, "novel", Novel)
    without = authors_page.make_page().values["without"]
    assert without["novel"] == "not compared yet"
    assert without["rosetta"] == "a method of this project"
    assert without["proda"] == "no public code was found"


PAGE = (DOCS / "methods.md").read_text(encoding="utf-8")
FACTS = read_facts()


@pytest.mark.parametrize(
    ("title", "parameters"),
    [
        *[("Zero-shot", "0"), ("CoOp", "8,192"), ("CoCoOp", "35,360"), ("KgCoOp", "2,048")],
        *[("ProGrad", "8,192"), ("TCP", "331,904"), ("PLOT", "32,768"), ("ProText", "18,432")],
        *[("KDPL (CoOp)", "2,048"), ("ContCoOp", "788,480"), ("ATPrompt (CoOp)", "3,072")],
        *[("CLIP-Adapter", "131,072"), ("TaskRes", "512 · C"), ("CLAP", "512 · C")],
        *[("GDA", "513 · C"), ("Tip-Adapter-F", "512 · N"), ("Rosetta", "C · N")],
        *[("VPT-deep", "73,728"), ("VPT-shallow", "6,144"), ("IVLP", "30,720")],
        *[("MaPLe", "3,555,072"), ("PromptSRC", "46,080"), ("CoPrompt", "3,817,216")],
        *[("CLIP-LoRA", "184,320"), ("BitFit (text)", "68,096"), ("MMA", "674,560")],
        *[("MMRL", "4,992,256"), ("PLOT++", "14,336"), ("ProDA", "262,144")],
    ],
)
def test_modules_have_the_published_number_of_parameters(title: str, parameters: str) -> None:
    """The numbers are from papers and their authors' code, at ViT-B/16."""
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| [{title}]")]
    assert row.split("|")[4].strip() == parameters


def test_parameters_are_those_of_one_view_and_of_a_teacher_of_its_own_size() -> None:
    counts = {name: facts["parameters"] for name, facts in FACTS.items()}
    assert counts["proker"] == "C · N"
    assert counts["rehark"] == "2 · C · N"
    assert counts["promptkd"] == f"{768 * (512 + 768 + 4) + 9 * 4 * 768:,}"


def test_a_size_that_grows_in_another_way_is_an_error() -> None:
    def sizes(count: Callable[[int, int], int]) -> list[int]:
        return [count(classes, classes * shots) for classes, shots in DRAWS]

    assert write_size(sizes(lambda c, n: 7 + 2 * c + c * n)) == "7 + 2 · C + C · N"
    with pytest.raises(ValueError, match=r"^\[16, 16, 64, 64\]: no sum"):
        write_size(sizes(lambda c, n: c * c))


@pytest.mark.parametrize("name", sorted({*builtin_methods().names()} - UNRECORDED))
def test_each_method_has_a_page_with_its_idea_formula_and_results(name: str) -> None:
    """The first lines of its file are the idea, in two or three sentences."""
    method = builtin_methods().get(name)
    headline, idea = read_idea(method)
    assert (headline + idea).count(".") > 1
    assert idea.endswith(".")
    page = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {method.card.title}\n")
    for title in ("Formula", "Module", "Recipe"):
        assert f"\n## {title}\n" in page
    has_rows = name in make_request("mini").methods
    assert ("\n| New model | Module |" in page) == has_rows
    assert f"](methods/{name}.md)" in PAGE


def test_every_method_page_has_a_method() -> None:
    pages = {path.stem for path in (DOCS / "methods").glob("*.md")}
    assert pages == set(FACTS)
    assert pages ^ {*builtin_methods().names()} <= UNRECORDED
