"""Result files: what is written is read again, and nothing broken is read at all."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import COOP, make_method, make_pairs, make_row

from compatbench.errors import CompatbenchError
from compatbench.results.rows import Cost, Row, read_csv, write_csv
from compatbench.results.store import (
    MethodResults,
    join_provenance,
    merge_costs,
    merge_results,
    merge_rows,
    read_results,
    write_results,
)

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
keys = st.text("0123456789abcdef", min_size=64, max_size=64)
readable = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@st.composite
def any_row(draw: st.DrawFn) -> Row:
    values: dict[str, Any] = {
        part: draw(names) for part in ("method", "task", "test_set", "source", "backbone")
    }
    values |= {"shots": draw(st.integers(1, 64)), "seed": draw(st.integers())}
    values |= {"key": draw(keys), "data": draw(keys)}
    values |= {"parameters": draw(st.integers(0)), "module_bytes": draw(st.integers(0))}
    values |= {"reason": draw(readable), "status": draw(st.sampled_from(["ok", "failed"]))}
    if values["status"] == "ok":
        values["total"] = draw(st.integers(1, 100_000))
        values["correct"] = draw(st.integers(0, values["total"]))
        values["zero_shot_correct"] = draw(st.integers(0, values["total"]))
    return Row(**values)


costs = st.builds(
    Cost,
    key=keys,
    backbone=names,
    test_set=names,
    fit_seconds=st.floats(0, 1e9),
    evaluate_seconds=st.floats(0, 1e9),
    peak_memory=st.none() | st.integers(0, 2**50),
)


def results(**changes: object) -> MethodResults:
    rows = make_pairs({("cats", 1): (50, 60), ("dogs", 1): (70, 80)})
    return replace(make_method(COOP, rows, differs={"epochs": (200, 50)}), **changes)  # type: ignore[arg-type]


@given(st.lists(any_row(), max_size=5))
def test_rows_come_back_as_they_were(rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.csv"
        text = write_csv(rows, Row)
        path.write_bytes(text.encode())
        assert read_csv(path, Row) == rows
        assert len(text.splitlines()) == len(rows) + 1


@given(st.lists(costs, max_size=5))
def test_costs_come_back_as_they_were(lines: list[Cost]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.cost.csv"
        path.write_bytes(write_csv(lines, Cost).encode())
        assert read_csv(path, Cost) == lines


def test_a_cost_file_names_peak_memory_only_where_it_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "m.cost.csv"
    lines = list(results().costs)
    path.write_text(write_csv(lines, Cost))
    assert path.read_text().splitlines()[0] == "key,backbone,test_set,fit_seconds,evaluate_seconds"
    assert read_csv(path, Cost) == lines
    lines[1] = lines[1].model_copy(update={"peak_memory": 12_345})
    path.write_text(write_csv(lines, Cost))
    assert path.read_text().splitlines()[0].endswith(",evaluate_seconds,peak_memory")
    assert path.read_text().splitlines()[1].endswith(",")
    assert read_csv(path, Cost) == lines
    path.write_text(path.read_text().replace(",fit_seconds", ""))
    with pytest.raises(CompatbenchError, match=r"m\.cost\.csv:1: the columns must be"):
        read_csv(path, Cost)


@given(st.data())
def test_a_changed_file_is_refused_or_read_as_valid_rows(data: st.DataObject) -> None:
    content = bytearray(write_csv(make_pairs({("cats", 1): (50, 60)}), Row).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = start + data.draw(st.integers(0, 6))
        content[start:end] = data.draw(st.binary(max_size=6) | st.sampled_from([b'"', b",", b"\n"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coop.csv"
        path.write_bytes(bytes(content))
        try:
            rows = read_csv(path, Row)
        except CompatbenchError:
            return
        for row in rows:
            assert Row(**row.model_dump()) == row
            assert row.accuracy is None or 0 <= row.accuracy <= 100


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ok,50", "ok,101", "more images are right"),
        ("ok,50,100", "failed,50,100", "no counts"),
        ("ok,50", "ok,-1", "'correct'"),
        ("coop,cats,cats", "coop,../cats,cats", "'task'"),
        ("coop,cats,cats", "coop,cats,cats,cats", "coop.csv:2"),
        ("method,task", "task,method", "coop.csv:1: the columns must be"),
        ("coop,cats", "kgcoop,cats", "a row of method 'kgcoop'"),
    ],
)
def test_a_broken_row_names_its_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    folder = tmp_path / "tiny"
    write_results(folder, results())
    path = folder / "coop.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CompatbenchError, match=message.replace(".", r"\.")):
        read_results(folder)


def test_a_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    written = write_results(folder, results())
    assert [path.name for path in written] == ["coop.json", "coop.cost.csv", "coop.csv"]
    read = read_results(folder)
    assert read.name == "tiny"
    assert set(read.methods["coop"].rows) == set(results().rows)
    assert read.methods["coop"].info == COOP
    assert read.methods["coop"].differs == {"epochs": (200, 50)}
    assert read.methods["coop"].provenance == {"torch": ("2.6",)}


def test_the_same_results_leave_the_files_untouched(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    before = {path: path.stat().st_mtime_ns for path in write_results(folder, results())}
    shuffled = results(rows=results().rows[::-1], costs=results().costs[::-1])
    assert write_results(folder, shuffled) == []
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert write_results(folder, results(config={"lr": 1})) == [folder / "coop.json"]


def test_a_folder_that_does_not_exist_holds_no_results(tmp_path: Path) -> None:
    assert read_results(tmp_path / "tiny").methods == {}


def test_remains_of_an_interrupted_write_are_no_results(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    write_results(folder, results())
    (folder / "coop.csv").rename(folder / ".coop.csv.x1.tmp")
    assert read_results(folder).methods == {}


@pytest.mark.parametrize("name", ["../coop", "", ".hidden", "a/b", "coop.cost", "a" * 101, "a\n"])
def test_an_unsafe_method_name_is_never_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(CompatbenchError):
        write_results(tmp_path / "tiny", make_method(replace(COOP, name=name), []))
    assert list(tmp_path.rglob("*.csv")) == []


def test_an_unsafe_suite_or_file_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CompatbenchError, match="suite"):
        read_results(tmp_path / "a b")
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "a b.csv").touch()
    with pytest.raises(CompatbenchError, match="method 'a b'"):
        read_results(folder)


def test_links_are_not_followed(tmp_path: Path) -> None:
    write_results(tmp_path / "other", results())
    folder = tmp_path / "tiny"
    write_results(folder, results())
    (folder / "coop.csv").unlink()
    (folder / "coop.csv").symlink_to(tmp_path / "other" / "coop.csv")
    with pytest.raises(CompatbenchError, match="is a link"):
        read_results(folder)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"method": 1}', "\ud800", "[" * 5000, '{"method": {"name": "x/y"}}'],
)
def test_a_broken_about_file_is_named(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "tiny"
    write_results(folder, results())
    (folder / "coop.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(CompatbenchError, match=r"coop\.json"):
        read_results(folder)


def test_about_must_be_there_and_of_the_same_method(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    write_results(folder, results())
    path = folder / "coop.json"
    about = json.loads(path.read_text())
    about["method"]["name"] = "kgcoop"
    path.write_text(json.dumps(about))
    with pytest.raises(CompatbenchError, match="must be 'coop'"):
        read_results(folder)
    path.unlink()
    with pytest.raises(CompatbenchError, match="cannot read"):
        read_results(folder)


def test_two_rows_for_one_measurement_are_refused(tmp_path: Path) -> None:
    rows = [make_row(50), make_row(51)]
    with pytest.raises(CompatbenchError, match="two lines"):
        write_results(tmp_path / "tiny", make_method(COOP, rows, costs=()))


def test_merge_keeps_valid_rows_that_are_not_replaced() -> None:
    stale, kept, replaced = make_row(1, seed=1), make_row(2, seed=2), make_row(3, seed=3)
    new = make_row(4, seed=3)
    merged = merge_rows([stale, kept, replaced], [new], {kept.key, replaced.key})
    assert merged == [kept, new]


def test_merge_replaces_a_row_of_another_key_in_the_same_place() -> None:
    old, new = make_row(1), make_row(2, key="0" * 64)
    assert merge_rows([old], [new], {old.key, new.key}) == [new]


def test_a_new_failure_does_not_displace_an_answer_of_the_same_fit() -> None:
    old = make_row(50)
    failure = make_row(None, status="failed", reason="RuntimeError: out of memory")
    assert merge_rows([old], [failure], {old.key}) == [old]
    assert merge_rows([failure], [old], {old.key}) == [old]
    other = failure.model_copy(update={"key": "0" * 64})
    assert merge_rows([old], [other], {old.key, other.key}) == [other]


def test_costs_merge_as_rows_do() -> None:
    first, second = make_method(COOP, [make_row(1)], 1.0), make_method(COOP, [make_row(2)], 2.0)
    key = first.costs[0].key
    assert merge_costs(list(first.costs), list(second.costs), {key}) == list(second.costs)
    assert merge_costs(list(first.costs), [], set()) == []


def test_provenance_of_rows_that_are_gone_goes_with_them() -> None:
    old = make_method(COOP, [make_row(1, seed=1)], provenance={"torch": ("2.5",)})
    new = make_method(COOP, [make_row(2, seed=2)], provenance={"torch": ("2.6",)})
    both = merge_results(old, new, {row.key for row in old.rows + new.rows})
    assert [row.seed for row in both.rows] == [1, 2]
    assert len(both.costs) == 2
    assert both.provenance == {"torch": ("2.5", "2.6")}
    alone = merge_results(old, new, {row.key for row in new.rows})
    assert (alone.rows, alone.costs, alone.provenance) == (new.rows, new.costs, new.provenance)
    assert merge_results(None, new, set()) == new


def test_of_two_new_lines_for_one_measurement_the_later_counts() -> None:
    first, later = make_method(COOP, [make_row(1)], 1.0), make_method(COOP, [make_row(2)], 2.0)
    twice = replace(first, rows=first.rows + later.rows, costs=first.costs + later.costs)
    merged = merge_results(None, twice, set())
    assert (merged.rows, merged.costs) == (later.rows, later.costs)


def test_provenance_joins_strings_and_lists() -> None:
    parts = [{"torch": "2.6", "cpu": "a"}, {"torch": ["2.5", "2.6"]}]
    assert join_provenance(parts) == {"cpu": ("a",), "torch": ("2.5", "2.6")}
