"""The audit's parts: what it reads, what it draws, and how it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from command_line import invoke
from honest_results import Workplace
from hypothesis import given
from hypothesis import strategies as st

import compatbench as cb
from compatbench.data.cards import TrainingCard, suite_cards
from compatbench.data.task import load_task
from compatbench.engine.cell import Cell, provenance
from compatbench.engine.missing import Missing
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.audit import check_pages
from compatbench.extras.audit.findings import Finding, summarise
from compatbench.extras.audit.rerun import compare_costs
from compatbench.extras.audit.result_checks import check_totals
from compatbench.extras.audit.sample import (
    Draw,
    Sampled,
    SampleSize,
    draw_cells,
    find_power,
    round_robin,
)
from compatbench.extras.audit.tolerance import EPSILON, choose_tolerance, find_drift

from .conftest import set_field


def make_cell(number: int, method: str) -> Sampled:
    key, training = f"{number:064d}", TrainingCard.model_validate({})
    cell = Cell(key, key, method, {}, "t", 1, number, ("a", "b"), ("t",), training)
    return Sampled((("s", cell),), number % 3 > 0, 1.0)


CELLS = [make_cell(n, f"m{n % 5}") for n in range(60)]


def keys(draw: Draw) -> list[str]:
    return [one.cell.key for one in draw.wanted]


@given(cells=st.integers(0, 70), seed=st.integers(0, 1000))
def test_a_draw_is_one_of_all_cells_once_each(cells: int, seed: int) -> None:
    [draw] = draw_cells(CELLS, SampleSize(cells), seed)
    assert len({*keys(draw)}) == len(draw.wanted) == min(cells, 60)
    assert draw_cells(CELLS[::-1], SampleSize(cells), seed) == [draw]


@pytest.mark.parametrize("forged", [range(6), range(0, 60, 10), range(54, 60)])
def test_forged_cells_are_found_as_often_as_the_formula_says(forged: range) -> None:
    """Wherever they are: of one method, or spread; also in a draw that time ended."""
    bad, seeds = {CELLS[n].cell.key for n in forged}, 2000
    [draw] = draw_cells(CELLS, SampleSize(), 0)
    wanted, least = len(draw.wanted), find_power(len(draw.wanted), 60, 0.1)
    assert least >= 0.9 > find_power(wanted - 1, 60, 0.1)
    for run, power in ((wanted, least), (6, find_power(6, 60, 0.1))):
        draws = (keys(draw_cells(CELLS, SampleSize(), seed)[0])[:run] for seed in range(seeds))
        found = sum(not bad.isdisjoint(drawn) for drawn in draws) / seeds
        assert abs(found - power) < 4 * (power * (1 - power) / seeds) ** 0.5


@pytest.mark.parametrize(
    ("of", "forged", "power", "cells"),
    [
        (2352, 0.1, 0.9, 22),
        (2352, 0.01, 0.9, 215),
        (100, 0.1, 0.9, 20),
        (24, 0.1, 0.9, 13),
        (10, 0.1, 0.5, 5),  # one cell of ten
        (10, 0.1, 1.0, 10),
        (10, 1.0, 1.0, 1),
        (0, 0.1, 0.9, 0),
    ],
)
def test_as_many_cells_are_drawn_as_the_power_takes(
    of: int, forged: float, power: float, cells: int
) -> None:
    assert SampleSize(forged=forged, power=power).count(of) == cells


def test_new_methods_are_run_whole_and_others_by_a_cell() -> None:
    each, whole, some = draw_cells(CELLS, SampleSize(), 3, only={"m0", "m1"}, new={"m1"}, each=True)
    assert sorted(one.cell.name for one in each.wanted) == ["m2", "m3", "m4"]
    assert (whole.of, len(whole.wanted)) == (8, 8)  # whose weights ship; the rest are sampled
    assert {one.cell.name for one in whole.wanted} == {"m1"}
    assert (some.of, {one.cell.name for one in some.wanted}) == (16, {"m0", "m1"})
    assert len(some.wanted) == SampleSize().count(16)
    order = [draw.what for draw, _ in round_robin([each, whole, some])]
    assert order[:4] == [each.what, whole.what, some.what, each.what]
    [asked] = draw_cells(CELLS, SampleSize(cells=2), 3, only={"m0", "m1"}, new={"m1"}, each=True)
    assert (asked.of, len(asked.wanted)) == (24, 2)


def test_cells_whose_transfers_train_are_not_drawn_and_are_counted() -> None:
    root = Path(__file__).parents[3]
    folder = root / "results" / "mini-price"
    rows = pd.concat(pd.read_csv(path) for path in folder.glob("*.csv") if ".cost" not in path.name)
    names = rows.drop_duplicates("key")["transfer"].str.partition("+")[0]
    trained = int(names.isin(["warm", "distilled", "gradfix"]).sum())
    found = cb.audit_results(root, suites=["mini-price"], cells=0, zero_shot=False)
    assert [draw.of for draw in found.draws] == [len(names) - trained]
    assert any(note.startswith(f"{trained} cells cannot be run again") for note in found.notes)


def test_a_draw_says_what_it_has_shown() -> None:
    [draw] = draw_cells(CELLS, SampleSize(), 0)
    draw.run = draw.wanted[:6]
    assert str(draw) == (
        f"6 of 60 cells run again ({len(draw.wanted)} were wanted; the time was used up): 0.1 of "
        f"them forged would be found with probability {draw.power:.2f}"
    )
    draw.run = draw.wanted
    assert "wanted" not in str(draw)


def test_a_claim_can_only_tighten_the_tolerance() -> None:
    here = {name: (value,) for name, value in provenance().items()}
    assert choose_tolerance(here, None).of(1000) == 0
    shares = set()
    for made in (("another",), ("AMD EPYC 9",), (), ("another", here["processor"][0])):
        elsewhere = choose_tolerance(here | {"processor": made}, None)
        assert "processor" in elsewhere.why
        shares.add((elsewhere.share, elsewhere.images, elsewhere.whole))
    assert shares == {(EPSILON, None, True)}
    assert choose_tolerance(here | {"torch": ("0.1",)}, None).of(10) == 1
    assert choose_tolerance(here, 3).of(1000) == 3


def test_what_a_gpu_has_made_is_not_held_to_be_of_this_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = provenance()["processor"]  # once for the process
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    made = {name: (value,) for name, value in provenance.__wrapped__().items()}
    assert made["processor"] == (f"{here}, NVIDIA H100",)
    assert choose_tolerance(made, None).share == EPSILON


def drift_of(images: list[int], method: str = "m") -> list[Finding]:
    """What is found of cells of one row of 1,000 images that differ by so many."""
    rows = [
        {"file": "a.csv", "method": method, "key": str(n), "images": value, "total": 1000}
        for n, value in enumerate(images)
    ]
    return list(find_drift(pd.DataFrame(rows)))


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ([0] * 36, False),
        ([0] * 6 + [11, 0], False),  # one training run that went another way
        ([3, -4, 0, 1, -1, 2] * 6, False),
        ([20], True),  # two percent on every row, seen in one cell
        ([10] * 3, True),
        ([1] * 36, True),  # within any mean, but all one way
        ([-1] * 30 + [2] * 6, True),
    ],
)
def test_differences_are_judged_as_a_whole(images: list[int], found: bool) -> None:
    assert bool(drift_of(images)) == found


@pytest.mark.parametrize(
    ("field", "recorded", "here", "found"),
    [
        ("fit_seconds", 0.0, 0.2, True),
        ("fit_seconds", 0.01, 1.0, True),  # a hundredth
        ("fit_seconds", 0.06, 1.0, False),  # a faster machine
        ("fit_seconds", 100.0, 1.0, False),  # a machine in use
        ("fit_seconds", 1200.0, 1.0, True),  # milliseconds
        ("fit_seconds", 0.0, 0.19, False),
        ("fit_seconds", 9.0, 0.001, False),
        ("evaluate_seconds", 0.01, 1.0, True),
        ("peak_memory", 9e6, 9e8, True),
        ("peak_memory", 9e10, 9e8, True),
        ("peak_memory", 5e8, 9e8, False),
        ("peak_memory", pd.NA, 9e8, False),
        ("peak_memory", 9e8, None, False),
    ],
)
def test_costs_are_held_against_those_of_a_rerun(
    field: str, recorded: object, here: float | None, found: bool
) -> None:
    honest = {"fit_seconds": 1.0, "evaluate_seconds": 1.0, "peak_memory": 9e8}
    place = {"backbone": "b", "test_set": "t", "file": "m.cost.csv", "line": 2}
    costs = pd.DataFrame([honest | place | {field: recorded}]).astype({"peak_memory": "Int64"})
    again = pd.DataFrame([honest | place | {field: here}]).set_index(["backbone", "test_set"])
    findings = list(compare_costs(costs, again[list(honest)].astype(float)))
    assert [one.field for one in findings] == [field] * found


def test_totals_of_a_half_are_those_of_its_classes() -> None:
    count = len(load_task("mini-food.new").split("test"))
    sets = {"mini-food": 277, "mini-food.new": count, "mini-food.base": count + 5, "food.new": 1}
    lines = {"test_set": [*sets], "file": "f.csv", "line": [2, 3, 4, 5]}
    rows = pd.DataFrame(lines | {"total": pd.array([*sets.values()], dtype="Int64")})
    suite: Any = SimpleNamespace(rows=rows, missing=Missing())
    found = {(one.line, one.field): one.problem for one in check_totals(suite)}
    assert found == {
        (5, "test_set"): "there is no such test set",
        (4, "total"): "is not the number of test images of mini-food.base",
    }
    away: Any = SimpleNamespace(rows=rows[1:3], missing=Missing({}, {"mini-food.base": "gone"}))
    assert check_totals(away) == []


def test_a_finding_is_one_line_and_many_of_one_kind_are_counted() -> None:
    alike = [Finding("a.csv", "is stale", n, "key") for n in range(2, 30)]
    lines = summarise([*alike, Finding("b.csv", "is gone")])
    assert lines[:3] == [f"a.csv:{n}: 'key': is stale" for n in (2, 3, 4)]
    assert lines[3:] == ["a.csv: and 25 more like these", "b.csv: is gone"]
    [odd] = summarise([Finding("a.csv", "is odd", 3, "reason", "x", "two\nlines \x1b[31m")])
    assert odd == "a.csv:3: 'reason': is odd; expected x, found two lines [31m"


def test_files_of_no_method_are_named(forged: Workplace) -> None:
    files = {
        "notes.txt": "notes.txt: no results of a method belong to this file",
        "ghost.json": "ghost.json: no results of a method belong to this file",
        "ghost.cost.csv": "ghost.cost.csv: no results of a method belong to this file",
        "a b.csv": "method 'a b' must consist of letters",
        "alone.csv": "alone.json",
    }
    for name in files:
        (forged.results / name).write_text("x")
    result = forged.audit("--no-zero-shot")
    assert result.exit_code == 1
    assert [said for said in files.values() if said not in result.output] == []


def test_a_page_of_a_suite_that_has_none_is_named(tmp_path: Path) -> None:
    page = tmp_path / "results" / "smoke" / "README.md"
    page.parent.mkdir(parents=True)
    page.write_text("The best of all.")
    [found] = check_pages(tmp_path, [suite_cards.read("smoke")])
    assert str(found) == f"{page}: its suite has no pages"


def test_one_broken_file_does_not_hide_another(forged: Workplace) -> None:
    (forged.results / "simpleshot.csv").write_text("x")
    forged.edit("coop.csv", lambda text: text.replace(",ok,", ",fine,", 1))
    output = forged.audit("--no-zero-shot").output
    assert "simpleshot.csv:1: the columns must be" in output
    assert "coop.csv:2: 'status'" in output


def test_links_and_folders_of_no_suite_are_named(forged: Workplace, tmp_path: Path) -> None:
    (forged.results / "coop.csv").rename(tmp_path / "elsewhere.csv")
    (forged.results / "coop.csv").symlink_to(tmp_path / "elsewhere.csv")
    (forged.folder / "results" / "other").symlink_to(tmp_path)
    assert "coop.csv is a link" in forged.audit("--no-zero-shot").output
    result = invoke("audit", "--out", str(forged.folder), "--cells", "0")
    assert result.exit_code == 1
    assert "other: is a link" in result.output
    assert "results/tiny: no suite has that name; give its file: --suite" in result.output


def test_what_a_notebook_gets_names_file_line_and_field(forged: Workplace) -> None:
    forged.edit("taskres.csv", set_field(2, "data", lambda _: "0" * 64))
    found = cb.audit_results(forged.folder, [forged.suite], cells=0, zero_shot=False)
    assert (found.suites, found.methods) == (["tiny"], 4)
    [finding] = found.to_frame().to_dict("records")
    assert finding["file"] == str(forged.results / "taskres.csv")
    assert (finding["line"], finding["field"], finding["found"]) == (2, "data", "0" * 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "nowhere"], "cannot read nowhere/results: No such file or directory"),
        ([], "holds no results; start with 'compatbench run'"),
        (["--suite", "mimi"], "no suite named 'mimi'; did you mean mini"),
        (["--suite", "mini"], "holds no results of suite 'mini'"),
        (["--forged", "10"], "'forged' is 10.0; give one in \\(0, 1\\]"),
        (["--methods", "./nowhere.py"], "method file nowhere.py does not exist"),
        (["--device", "gpu", "--suite", "mini"], "--device 'gpu' cannot be used here"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    with pytest.raises(CompatbenchError, match=message):
        invoke("audit", *arguments)


@pytest.mark.slow
def test_an_empty_folder_of_figures_stops_neither_a_run_nor_an_audit(forged: Workplace) -> None:
    place = Workplace(forged.folder / "new")
    (place.folder / "results" / "figures").mkdir(parents=True)
    shutil.copy(forged.suite, place.suite)
    options = ["--methods", "zeroshot", "--jobs", "1", "--out", place.folder]
    assert invoke("run", "--suite", place.suite, *options).exit_code == 0
    assert (place.folder / "results" / "report" / "index.html").is_file()
    assert "findings: 0" in place.audit().output
