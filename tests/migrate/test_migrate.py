"""Older files become present ones, nothing else changes, and nothing is lost."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import COOP, make_method, make_pairs
from typer.testing import CliRunner, Result

from compatbench.cli.app import app
from compatbench.errors import CompatbenchError
from compatbench.files import sha256_bytes
from compatbench.leaderboard.results import read_results, write_results
from compatbench.leaderboard.rows import Cost, Row
from compatbench.migrate import files as migrate_files
from compatbench.migrate import migrate_results, migrate_runs
from compatbench.migrate.results import COST_LAYOUTS, ROW_LAYOUTS
from compatbench.run.cell import SCHEMA, CellRecord, Record
from compatbench.run.store import RunStore

NEW = ("negative_flips", "positive_flips", "inconsistent_errors", "ece")
KEY = "5" * 64


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "300"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def results_folder(out: Path) -> Path:
    rows = make_pairs({("cats", 1): (50, 60), ("dogs", 1): (70, 80)})
    write_results(out / "results" / "tiny", make_method(COOP, rows))
    return out / "results"


def make_old(path: Path) -> None:
    """A rows file as it was before flips and calibration."""
    lines = list(csv.DictReader(path.open(newline="")))
    names = [name for name in lines[0] if name not in NEW]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    path.write_text(out.getvalue())


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(("layouts", "model"), [(ROW_LAYOUTS, Row), (COST_LAYOUTS, Cost)])
def test_what_a_layout_lacks_may_be_empty_and_what_it_has_is_known(layouts, model) -> None:
    for header in layouts:
        columns = header.split(",")
        assert set(columns) <= set(model.model_fields)
        lacking = set(model.model_fields) - set(columns)
        assert not any(model.model_fields[name].is_required() for name in lacking)


def test_an_older_file_becomes_the_present_one_with_blanks(tmp_path: Path) -> None:
    results = results_folder(tmp_path)
    path = results / "tiny" / "coop.csv"
    present = path.read_bytes()
    make_old(path)
    old = path.read_bytes()
    with pytest.raises(CompatbenchError, match=r"coop\.csv:1: .*'compatbench migrate' brings"):
        read_results(results / "tiny")
    check = invoke("migrate", "--out", str(tmp_path), "--check")
    assert check.exit_code == 1
    assert "coop.csv is without flips and calibration" in check.output
    assert path.read_bytes() == old
    done = invoke("migrate", "--out", str(tmp_path))
    assert done.exit_code == 0
    assert "coop.csv was without flips and calibration" in done.output
    # The synthetic rows have no flips, so that blanks are all there is to add.
    assert path.read_bytes() == present
    assert (results / "tiny" / "coop.csv.bak").read_bytes() == old
    assert len(read_results(results / "tiny").methods["coop"].rows) == 4


def test_migrating_twice_changes_nothing_more(tmp_path: Path) -> None:
    results = results_folder(tmp_path)
    make_old(results / "tiny" / "coop.csv")
    invoke("migrate", "--out", str(tmp_path))
    before = snapshot(tmp_path)
    assert "everything is of the present layout" in invoke("migrate", "--out", str(tmp_path)).output
    assert invoke("migrate", "--out", str(tmp_path), "--check").exit_code == 0
    assert snapshot(tmp_path) == before


@given(
    figures=st.dictionaries(
        st.tuples(st.sampled_from(["cats", "dogs"]), st.integers(0, 9)),
        st.tuples(st.integers(0, 100), st.integers(0, 100)),
        max_size=5,
    )
)
def test_a_present_file_is_never_touched(
    tmp_path_factory: pytest.TempPathFactory, figures: dict[tuple[str, int], tuple[int, int]]
) -> None:
    out = tmp_path_factory.mktemp("present")
    write_results(out / "results" / "tiny", make_method(COOP, make_pairs(figures)))
    RunStore(out / "runs").write(make_record())
    before = snapshot(out)
    assert migrate_results(out / "results", write=True) == []
    assert migrate_runs(out / "runs", write=True) == []
    assert snapshot(out) == before


def test_the_committed_results_are_of_the_present_layout() -> None:
    committed = Path(__file__).parents[2] / "results"
    assert migrate_results(committed, write=False) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("coop.csv", "method,task\n", "coop.csv:1: these columns are of no layout that is known"),
        ("coop.csv", "", "coop.csv:1: these columns are of no layout"),
        ("coop.csv", "\ufeffmethod,task\n", "coop.csv:1: these columns are of no layout"),
        ("coop.csv", f"{next(iter(ROW_LAYOUTS))}\ncoop,cats\n", "coop.csv:2: '"),
        ("coop.cost.csv", "key,seconds\n", "coop.cost.csv:1: these columns are of no layout"),
        ("coop.json", '{"schema_version": 2}', "coop.json: 'schema_version': 2 is not known"),
        ("coop.json", "[]", "coop.json: 'schema_version': None is not known"),
        ("coop.json", "{", "coop.json is no JSON"),
        ("coop.json", "[" * 100_000, "coop.json is no JSON"),
    ],
)
def test_what_is_not_understood_stops_everything_before_it_begins(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    results = results_folder(tmp_path)
    shutil.copytree(results / "tiny", results / "another")
    make_old(results / "another" / "coop.csv")
    (results / "tiny" / name).write_text(content)
    before = snapshot(tmp_path)
    with pytest.raises(CompatbenchError, match=message) as error:
        invoke("migrate", "--out", str(tmp_path))
    assert "\n" not in str(error.value)
    assert snapshot(tmp_path) == before


def test_a_backup_is_never_written_over(tmp_path: Path) -> None:
    results = results_folder(tmp_path)
    make_old(results / "tiny" / "coop.csv")
    (results / "tiny" / "coop.csv.bak").write_text("somebody's own")
    invoke("migrate", "--out", str(tmp_path))
    assert (results / "tiny" / "coop.csv.bak").read_text() == "somebody's own"
    assert (results / "tiny" / "coop.csv.bak2").read_text().startswith("method,task")


def test_a_kill_in_between_leaves_whole_files_and_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = results_folder(tmp_path)
    shutil.copytree(results / "tiny", results / "another")
    present = (results / "tiny" / "coop.csv").read_bytes()
    paths = [results / suite / "coop.csv" for suite in ("another", "tiny")]
    for path in paths:
        make_old(path)
    old = paths[0].read_bytes()
    write = migrate_files.write_atomic
    for stop in range(1, 4):
        calls = iter(range(100))

        def killed(path: Path, content: bytes, stop: int = stop, calls=calls) -> None:
            if next(calls) == stop:
                raise KeyboardInterrupt
            write(path, content)

        monkeypatch.setattr(migrate_files, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            migrate_results(results, write=True)
        assert {path.read_bytes() for path in paths} <= {old, present}
        for path in paths:
            path.write_bytes(old)
            path.with_name("coop.csv.bak").unlink(missing_ok=True)
    monkeypatch.setattr(migrate_files, "write_atomic", write)
    invoke("migrate", "--out", str(tmp_path))
    assert [path.read_bytes() for path in paths] == [present, present]
    assert {path.with_name("coop.csv.bak").read_bytes() for path in paths} == {old}


def make_record(**changes: object) -> CellRecord:
    record = Record(
        backbone="b", test_set="t", data="d", status="ok", correct=3, total=4, zero_shot_correct=1
    )
    values = dict(key=KEY, method="toy", config={"lr": 0.1}, task="t", source="b", shots=4, seed=1)
    return CellRecord.model_validate({**values, "status": "ok", "records": (record,), **changes})


def old_record(sealed: bool, **changes: object) -> bytes:
    """A record of schema 1, which had no flips; the oldest had no checksum either."""
    values = json.loads(make_record().model_dump_json())
    for name in NEW:
        del values["records"][0][name]
    text = json.dumps(values | {"schema_version": 1} | changes, indent=1) + "\n"
    if not sealed:
        return text.encode()
    rest = text.encode().removeprefix(b"{\n")
    return f'{{\n "sha256": "{sha256_bytes(rest)}",\n'.encode() + rest


@pytest.fixture
def record_path(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "cells" / KEY[:2] / f"{KEY}.json"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("sealed", [True, False])
def test_an_older_record_can_be_read_again(tmp_path: Path, record_path: Path, sealed: bool) -> None:
    record_path.write_bytes(old_record(sealed))
    output = invoke("migrate", "--out", str(tmp_path)).output
    assert f"{KEY}.json was of schema version 1" in output
    assert RunStore(tmp_path / "runs").read(KEY) == make_record()
    assert record_path.with_name(f"{KEY}.json.bak").read_bytes() == old_record(sealed)
    RunStore(tmp_path / "again").write(make_record())
    again = tmp_path / "again" / record_path.relative_to(tmp_path / "runs")
    assert record_path.read_bytes() == again.read_bytes()
    assert migrate_runs(tmp_path / "runs", write=True) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"torn",
        b"[" * 100_000,
        b"[]",
        old_record(True).replace(b'"correct": 3', b'"correct": 4'),
        old_record(False, schema_version=SCHEMA),
    ],
)
def test_a_damaged_record_is_left_to_the_store(record_path: Path, content: bytes) -> None:
    record_path.write_bytes(content)
    assert migrate_runs(record_path.parents[2], write=True) == []
    assert record_path.read_bytes() == content


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": SCHEMA + 1}, "'schema_version': 3 is not known; it may be of a newer"),
        ({"schema_version": "one"}, "'schema_version': 'one' is not known"),
        ({"shots": 0}, "'shots': "),
        ({"colour": "red"}, "'colour': "),
        ({"error": "\ud800"}, "error|characters that are none"),
        ({"config": {"a": "\ud800"}}, "it holds characters that are none"),
    ],
)
def test_a_record_that_is_not_understood_is_one_line(
    record_path: Path, changes: dict[str, object], message: str
) -> None:
    record_path.write_bytes(old_record(True, **changes))
    with pytest.raises(CompatbenchError, match=message) as error:
        migrate_runs(record_path.parents[2], write=True)
    assert "\n" not in str(error.value)


def test_there_may_be_nothing_to_migrate(tmp_path: Path) -> None:
    assert "everything is of the present layout" in invoke("migrate", "--out", str(tmp_path)).output


def test_links_are_not_followed(tmp_path: Path) -> None:
    results = results_folder(tmp_path)
    path = results / "tiny" / "coop.csv"
    path.rename(tmp_path / "elsewhere.csv")
    path.symlink_to(tmp_path / "elsewhere.csv")
    with pytest.raises(CompatbenchError, match=r"coop\.csv is a link"):
        invoke("migrate", "--out", str(tmp_path))
