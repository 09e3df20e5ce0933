"""A command opens each result file once, however many pages it makes of it."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import output_of

import compatbench as cb

_opened: Counter[str] = Counter()


def _count(event: str, arguments: tuple[object, ...]) -> None:
    """Count the opening of a result file for reading."""
    if event != "open" or not isinstance(arguments[0], str) or "w" in str(arguments[1]):
        return
    path = Path(arguments[0])
    if path.suffix in (".csv", ".json") and path.parent.parent.name == "results":
        _opened[f"{path.parent.name}/{path.name}"] += 1


# A hook cannot be removed, so there is one for the process.
sys.addaudithook(_count)


@pytest.fixture
def opened() -> Iterator[Counter[str]]:
    _opened.clear()
    yield _opened
    _opened.clear()


def run(out: Path, methods: str, seeds: str = "1") -> None:
    cb.run("smoke", methods, seeds=seeds, out=out, progress=False)


def run_as_command(out: Path, methods: str) -> None:
    selection = ("--methods", methods, "--seeds", "1", "--jobs", "1")
    output_of("run", "--suite", "smoke", *selection, "--out", out)


def run_with_display(out: Path, methods: str) -> None:
    """Run as on a terminal, which also shows the ranking so far."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stderr", terminal)
        patched.setenv("TERM", "xterm")
        cb.run("smoke", methods, seeds="1", out=out)
    assert "Zero-shot" in terminal.getvalue()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("project")
    run(out, "zeroshot,coop")
    return out


@pytest.mark.parametrize(
    "command",
    [
        lambda out: run(out, "zeroshot,coop"),  # all is there
        lambda out: run(out, "zeroshot,tip_adapter"),  # rows are added
        lambda out: run_as_command(out, "zeroshot,coop"),
        lambda out: run_with_display(out, "zeroshot,coop,gda"),
        cb.report,
        lambda out: cb.audit_results(out, cells=0),
        lambda out: cb.results("smoke", out).ranking(),
    ],
    ids=[
        "run again",
        "run more",
        "run as a command",
        "run with a display",
        "report",
        "audit",
        "results",
    ],
)
def test_each_result_file_is_opened_once(
    results: Path, opened: Counter[str], command: Callable[[Path], object]
) -> None:
    command(results)
    assert opened["smoke/coop.csv"] == 1
    assert opened["smoke/costs.csv"] == 1
    assert set(opened.values()) == {1}


def test_a_file_that_another_process_changed_is_read_again(
    results: Path, opened: Counter[str]
) -> None:
    from compatbench.results.result_files import ResultFiles

    files = ResultFiles(results)
    before = files.read_suite("smoke")
    path = results / "results" / "smoke" / "coop.csv"
    header, first, *_ = path.read_text().splitlines(keepends=True)
    path.write_text(header + first)
    opened.clear()
    after = files.read_suite("smoke")
    assert opened == {"smoke/coop.csv": 1}
    assert len(after.methods["coop"].rows) == 1 < len(before.methods["coop"].rows)
    assert files.read_suite("smoke") is after
