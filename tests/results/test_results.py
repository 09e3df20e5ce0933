"""Result files: they are read as they were written, broken ones are refused, and two are merged."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import (
    COOP,
    ZERO_SHOT,
    ZEROSHOT,
    lines_of,
    make_method,
    make_pairs,
    make_row,
    make_suite,
    through_words,
)

from compatbench.errors import CompatbenchError
from compatbench.results.result_files import ResultFiles
from compatbench.results.rows import Cost, Row, parse_csv, to_frame, with_figures, write_csv
from compatbench.results.stored_method import StoredMethod, merge_stored
from compatbench.results.suite_results import PLACE, SuiteResults, transfer_order

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
keys = st.text("0123456789abcdef", min_size=16, max_size=16)
readable = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
sizes = st.integers(0, 2**63 - 1)
fields: dict[str, Any] = {
    **dict.fromkeys(("method", "task", "test_set", "source", "backbone"), names),
    **dict.fromkeys(("key", "data"), keys),
    **dict.fromkeys(("parameters", "module_bytes"), sizes),
    "transfer": st.sampled_from(["copied", "words", "k-shot"]),
    "shots": st.integers(1, 64) | st.just("all"),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "reason": readable,
}
any_row = st.one_of(
    st.builds(make_row, st.integers(0, 100), ece=st.none() | st.floats(0, 100), **fields),
    st.builds(make_row, st.none(), status=st.just("failed"), **fields),
)
costs = st.builds(
    Cost,
    method=names,
    key=keys,
    backbone=names,
    test_set=names,
    fit_seconds=st.floats(0, 1e9),
    evaluate_seconds=st.floats(0, 1e9),
    peak_memory=st.none() | st.integers(0, 2**50),
)
rows_and_costs = st.one_of(
    st.tuples(st.just(Row), st.lists(any_row, max_size=5)),
    st.tuples(st.just(Cost), st.lists(costs, max_size=5)),
)


def results(**changes: Any) -> StoredMethod:
    rows = make_pairs({("cats", 1): (50, 60), ("dogs", 1): (70, 80)})
    return replace(make_method(COOP, rows, differs={"epochs": (200, 50)}), **changes)


def write(out: Path, *methods: StoredMethod) -> list[str]:
    """Write methods of the suite ``tiny``. Return the names of the files that changed."""
    return [path.name for path in ResultFiles(out).write("tiny", methods)]


def read(out: Path) -> SuiteResults:
    """Read the suite ``tiny`` from its files."""
    return ResultFiles(out).read_suite("tiny")


def written(out: Path, **changes: Any) -> Path:
    """Write one method, and return the suite's folder."""
    write(out, results(**changes))
    return out / "results" / "tiny"


def same(one: pd.DataFrame, other: pd.DataFrame, model: type[Row | Cost] = Row) -> bool:
    """Return True if two frames have the same lines, in any order."""
    ordered = one.sort_values(model.place, ignore_index=True)
    return ordered.equals(other.sort_values(model.place, ignore_index=True))


@given(rows_and_costs)
def test_rows_and_costs_survive_a_round_trip_through_csv(drawn: tuple[Any, list[Any]]) -> None:
    model, lines = drawn
    frame = to_frame(lines, model)
    text = write_csv(frame)
    assert len(text.splitlines()) == len(lines) + 1
    assert parse_csv(text.encode(), Path("m.csv"), model).equals(frame)


def test_a_frame_has_accuracies_and_gains_in_percent_and_costs() -> None:
    rows = [make_row(50), make_row(45, backbone="new"), make_row(None, status="failed", seed=2)]
    whole = make_method(COOP, rows)
    frame = with_figures(whole.rows, whole.costs[1:])
    assert frame["accuracy"].tolist()[:2] == [50, 45]
    assert frame["zero_shot"].tolist()[:2] == [ZERO_SHOT["old"], ZERO_SHOT["new"]]
    assert frame["gain"].tolist()[:2] == [10, -15]
    assert frame.iloc[2][["accuracy", "gain", "correct"]].isna().all()
    assert frame.dtypes["correct"] == "Int64"
    assert frame["fit_seconds"].isna().tolist() == [True, False, False]


def test_a_cost_file_names_peak_memory_only_where_it_was_measured() -> None:
    lines = results().costs
    header = write_csv(lines).splitlines()[0]
    assert header == "method,key,backbone,test_set,fit_seconds,evaluate_seconds"
    lines.loc[1, "peak_memory"] = 12_345
    longer, unmeasured, *_ = write_csv(lines).splitlines()
    assert longer == f"{header},peak_memory"
    assert unmeasured.endswith(",")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ok,50", "ok,101", "coop.csv:3: 'row': more images are right"),
        ("ok,50,100", "failed,50,100", "no counts"),
        ("ok,50", "ok,-1", "'correct'"),
        ("coop,copied,cats,cats", "coop,copied,../cats,cats", "'task'"),
        ("coop,copied,cats", "coop,by magic,cats", "'transfer'"),
        ("coop,copied,cats,cats", "coop,copied,cats,cats,cats", "coop.csv:2"),
        ("method,transfer", "transfer,method", "coop.csv:1: the columns must be"),
        ("coop,copied", "kgcoop,copied", "a row of method 'kgcoop'"),
    ],
)
def test_a_broken_row_names_its_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    folder = written(tmp_path)
    path = folder / "coop.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CompatbenchError, match=message.replace(".", r"\.")):
        read(tmp_path)


def test_the_first_line_with_a_wrong_value_is_named(tmp_path: Path) -> None:
    path = written(tmp_path) / "coop.csv"
    header, *lines = path.read_text().splitlines()
    lines[3] = lines[3].replace("coop,copied", "coop,by magic", 1)
    lines[1] = lines[1].replace(",ok,", ",fine,", 1)
    path.write_text("\n".join([header, *lines, ""]))
    with pytest.raises(CompatbenchError, match=r"coop\.csv:3: 'status': Input should be 'ok'"):
        read(tmp_path)
    path.write_text("\n".join([header, lines[0], f"{lines[2]},more", ""]))
    with pytest.raises(CompatbenchError, match=r"coop\.csv:3: 'row': has more values than"):
        read(tmp_path)


def test_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    copied = results()
    rows = make_pairs({("cats", 1): (50, 61)}, key="0" * 16)
    words = through_words(make_method(COOP, rows, provenance={"torch": ("2.7",)}))
    words = replace(words, differs=copied.differs)
    both = merge_stored(copied, words)
    assert write(tmp_path, both) == ["costs.csv", "coop.json", "coop.csv"]
    files = ResultFiles(tmp_path)
    coop = files.read_methods("tiny")["coop"]
    assert same(coop.rows, both.rows)
    assert same(coop.costs, both.costs, Cost)
    assert (coop.info, coop.differs) == (COOP, {"epochs": (200, 50)})
    assert coop.provenance == {"torch": ("2.6", "2.7")}
    assert files.write("tiny", [coop]) == []
    assert ResultFiles(tmp_path).write("tiny", [coop]) == []


def test_what_a_reader_wrote_is_what_another_reads(tmp_path: Path) -> None:
    writer = ResultFiles(tmp_path)
    writer.write("tiny", [results()])
    other = read(tmp_path)
    assert writer.read_suite("tiny").frame.equals(other.frame)
    assert writer.read_suite("tiny").digest == other.digest


def test_the_frame_has_a_row_per_measurement_and_copied_modules_first(tmp_path: Path) -> None:
    words = through_words(make_method(COOP, make_pairs({("cats", 1): (50, 61)}, key="0" * 16)))
    both = merge_stored(results(), words)
    write(tmp_path, both)
    suite = read(tmp_path)
    assert suite.frame["transfer"].tolist() == ["copied"] * 4 + ["words"] * 2
    assert suite.transfers == ["copied", "words"]
    assert suite.ranked_with("words") == {"coop"}
    assert suite.frame["ranked_with"].tolist() == suite.frame["transfer"].tolist()
    assert not suite.frame.duplicated(PLACE).any()
    only_words = suite.restrict(transfers=["words"])
    assert len(only_words.frame) == 2
    assert suite.restrict(methods=[]).frame.empty


def test_copied_modules_of_a_method_that_reads_words_are_ranked_with_words() -> None:
    reader = make_method(replace(COOP, needs=("words",)), make_pairs({("cats", 1): (50, 60)}))
    suite = make_suite(reader)
    assert set(suite.frame["ranked_with"]) == {"words"}
    assert set(suite.frame["transfer"]) == {"copied"}


def test_a_method_that_learns_nothing_is_listed_once_by_its_first_draw_without_failure() -> None:
    failed = make_row(None, method="zeroshot", seed=1, status="failed", reason="no")
    done = [make_row(40, method="zeroshot", seed=2), make_row(41, method="zeroshot", seed=3)]
    suite = make_suite(make_method(ZEROSHOT, [failed, *done]))
    [row] = suite.by_place.to_dict("records")
    assert (row["status"], row["correct"]) == ("ok", 40)


def test_transfers_are_ordered_by_their_numbers() -> None:
    names = ["words+raw", "retrained+16", "warm", "retrained+4", "copied", "words", "retrained+1"]
    assert sorted(names, key=transfer_order) == [
        *("copied", "retrained+1", "retrained+4", "retrained+16", "warm", "words", "words+raw")
    ]


def test_the_same_results_leave_the_files_untouched(tmp_path: Path) -> None:
    folder = written(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    shuffled = results(rows=results().rows[::-1], costs=results().costs[::-1])
    assert write(tmp_path, shuffled) == []
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert write(tmp_path, results(config={"lr": 1})) == ["coop.json"]


def test_costs_of_a_suite_are_one_sorted_file(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "tiny"
    coop = make_method(COOP, [make_row(50), make_row(50, backbone="new")])
    other = replace(COOP, name="kgcoop")
    kgcoop = make_method(other, [make_row(50, method="kgcoop")])
    write(tmp_path, kgcoop, coop)
    together = (folder / "costs.csv").read_text()
    methods = [line.partition(",")[0] for line in together.splitlines()]
    assert methods == ["method", "coop", "coop", "kgcoop"]
    # Methods that are written one after the other give the same bytes.
    (folder / "costs.csv").unlink()
    write(tmp_path, coop)
    write(tmp_path, kgcoop)
    assert (folder / "costs.csv").read_text() == together
    # Costs are deleted with the rows of their method.
    (folder / "kgcoop.csv").unlink()
    (folder / "kgcoop.json").unlink()
    write(tmp_path)
    assert (folder / "costs.csv").read_text() == "".join(together.splitlines(True)[:3])
    assert read(tmp_path).methods.keys() == {"coop"}


def test_a_broken_line_of_costs_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path)
    path = folder / "costs.csv"
    text = path.read_text()
    path.write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(CompatbenchError, match=r"costs\.csv: two lines for coop, "):
        read(tmp_path)
    path.write_text(text.replace(",0.4,", ",-1,", 1))
    with pytest.raises(CompatbenchError, match=r"costs\.csv:2: 'fit_seconds'"):
        read(tmp_path)


def test_a_missing_folder_and_remains_of_a_write_are_no_results(tmp_path: Path) -> None:
    assert read(tmp_path).methods == {}
    assert read(tmp_path).frame.empty
    folder = written(tmp_path)
    (folder / "coop.csv").rename(folder / ".coop.csv.x1.tmp")
    assert read(tmp_path).methods == {}


@pytest.mark.parametrize("name", ["../coop", "", ".hidden", "a/b", "costs", "a" * 101, "a\n"])
def test_an_unsafe_method_name_is_never_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(CompatbenchError):
        write(tmp_path, make_method(replace(COOP, name=name), []))
    assert list(tmp_path.rglob("*.csv")) == []


def test_an_unsafe_name_is_never_read(tmp_path: Path) -> None:
    folder = written(tmp_path)
    with pytest.raises(CompatbenchError, match="suite"):
        ResultFiles(tmp_path).read_suite("a b")
    (folder / "a b.csv").touch()
    with pytest.raises(CompatbenchError, match="method 'a b'"):
        read(tmp_path)


OTHERS = json.dumps(
    {"method": asdict(replace(COOP, name="kgcoop")), "config": {}, "differs": {}, "provenance": {}}
)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"method": 1}', "\ud800", "[" * 5000, '{"method": {"name": "x/y"}}', OTHERS],
)
def test_a_broken_about_file_or_one_of_another_method_is_named(
    tmp_path: Path, content: str
) -> None:
    folder = written(tmp_path)
    (folder / "coop.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    message = "must be 'coop'" if content == OTHERS else ""
    with pytest.raises(CompatbenchError, match=rf"coop\.json.*{message}"):
        read(tmp_path)


def test_a_missing_about_file_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / "coop.json").unlink()
    with pytest.raises(CompatbenchError, match=r"coop\.json"):
        read(tmp_path)


def test_two_rows_for_one_measurement_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CompatbenchError, match="two lines"):
        write(tmp_path, make_method(COOP, [make_row(50), make_row(51)]))
    folder = written(tmp_path)
    path = folder / "coop.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(CompatbenchError, match="two lines for copied, cats, old, 4, 1, new, cats"):
        read(tmp_path)


KEPT = make_row(2, seed=2)
REPLACED = make_row(3, seed=3)
NEW = make_row(4, seed=3)
OTHER = make_row(4, seed=3, key="0" * 16)
FAILURE = make_row(None, seed=3, status="failed", reason="RuntimeError: out of memory")
OTHER_FAILURE = FAILURE.model_copy(update={"key": "0" * 16})


@pytest.mark.parametrize(
    ("old", "new", "merged"),
    [
        ([KEPT, REPLACED], NEW, [KEPT, NEW]),
        ([REPLACED], OTHER, [OTHER]),
        # A failure does not take the place of a result of the same fit.
        ([REPLACED], FAILURE, [REPLACED]),
        ([FAILURE], REPLACED, [REPLACED]),
        ([REPLACED], OTHER_FAILURE, [OTHER_FAILURE]),
    ],
)
def test_merge_keeps_rows_that_are_not_replaced(
    old: list[Row], new: Row, merged: list[Row]
) -> None:
    both = merge_stored(make_method(COOP, old), make_method(COOP, [new]))
    assert lines_of(both) == merged


def test_costs_and_provenance_are_removed_with_their_rows() -> None:
    old = make_method(COOP, [make_row(1, seed=1)], provenance={"torch": ("2.5",)})
    new = make_method(COOP, [make_row(2, seed=2)], provenance={"torch": ("2.6",)})
    both = merge_stored(old, new)
    assert both.rows["seed"].tolist() == [1, 2]
    assert len(both.costs) == 2
    assert both.provenance == {"torch": ("2.5", "2.6")}
    replaced = make_method(
        COOP, [make_row(1, seed=2, key="0" * 16)], provenance={"torch": ("2.5",)}
    )
    for alone in (merge_stored(replaced, new), merge_stored(None, new)):
        assert alone.rows.equals(new.rows)
        assert alone.costs.equals(new.costs)
        assert alone.provenance == new.provenance


def test_of_two_new_lines_for_one_measurement_the_later_counts() -> None:
    first = make_method(COOP, [make_row(1)], 1.0)
    later = make_method(COOP, [make_row(2)], 2.0)
    twice = replace(
        first, rows=pd.concat([first.rows, later.rows]), costs=pd.concat([first.costs, later.costs])
    )
    merged = merge_stored(None, twice)
    assert merged.rows.equals(later.rows)
    assert merged.costs.equals(later.costs)


def test_results_without_a_file_of_costs_are_read(tmp_path: Path) -> None:
    (written(tmp_path) / "costs.csv").unlink()
    suite = read(tmp_path)
    assert len(suite.frame) == 4
    assert suite.frame["fit_seconds"].isna().all()
