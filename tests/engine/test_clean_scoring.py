"""The process that scores, ranks and writes imports no method, so none can change the scores."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

import compatbench as cb
from compatbench.engine.execute import on_ray
from compatbench.engine.execute.dispatcher import Job
from compatbench.engine.execute.events import Event
from compatbench.engine.execute.planning import Planner
from compatbench.engine.plan import Plan, make_plan
from compatbench.engine.plan_data import read_data, write_data
from compatbench.engine.request import make_request
from compatbench.errors import CompatbenchError
from compatbench.files.processes import receive_data

from .running import write_methods

# A file that gives full marks to every method, in each process that imports it.
PATCH = """
import compatbench.results.collect as collect
honest = collect.score
collect.score = lambda answers: honest(answers) | {"correct": len(answers.targets)}
"""
TRANSFER = """
from compatbench.method.transfer import Transfer, TransferCard

class Plain(Transfer):
    card = TransferCard("plain", "Plain", "", {"unlabelled"}, "copies", {"classifier"})

    def attach(self, method, module, target, labels, data):
        return method.attach(module, target, labels)
"""
PROGRAM = """
import sys
import compatbench as cb

if __name__ == "__main__":
    results = cb.run(
        "smoke",
        "zeroshot,./patch.py",
        transfers="copied,./plain.py",
        progress=False,
        compute=cb.Compute(jobs=int(sys.argv[1])),
    )
    results.ranking("mini-clip", "mini-eva-clip")
    content = ("compatbench.methods.", "compatbench.transfers.", "compatbench.formats.")
    imported = [name for name in sys.modules if name.startswith((*content, "compatbench_plugin_"))]
    sys.exit(", ".join(imported) or 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_imports_no_content_and_a_method_cannot_change_the_scores(
    tmp_path: Path, jobs: int
) -> None:
    write_methods(tmp_path / "patch.py", PATCH, patch="pass")
    (tmp_path / "plain.py").write_text(TRANSFER)
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py", str(jobs)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = {}
    for name in ("zeroshot", "patch"):
        with (tmp_path / "results" / "smoke" / f"{name}.csv").open() as file:
            copied = [row for row in csv.DictReader(file) if row["transfer"] == "copied"]
            rows[name] = [(row["correct"], row["total"]) for row in copied]
    assert rows["patch"] == rows["zeroshot"]
    assert all(correct != total for correct, total in rows["patch"])


def test_a_plan_is_the_same_after_it_was_sent_as_data(tmp_path: Path) -> None:
    request = make_request("smoke", "coop,gda,zeroshot", transfers="copied,words", out=tmp_path)
    plan = make_plan(request)
    again = read_data(Plan, write_data(plan))
    assert again.cells == plan.cells
    assert again.listed == plan.listed
    assert again.methods == plan.methods
    assert again.guesses == plan.guesses
    assert again.selection == plan.selection
    assert again.suite == plan.suite


def test_a_plan_that_a_method_has_changed_is_refused(tmp_path: Path) -> None:
    plan = write_data(make_plan(make_request("smoke", "zeroshot", out=tmp_path)))
    plan["cells"][0]["places"] = "everywhere"
    with pytest.raises(CompatbenchError, match=r"sends \(at 'cells\.0\.places'\)"):
        read_data(Plan, plan)


@pytest.mark.parametrize("sent", ["5", "[1, 2, 3]", "no JSON", "[" * 100_000])
def test_messages_that_are_no_pair_are_refused_in_one_line(sent: str) -> None:
    ours, theirs = Pipe()
    theirs.send_bytes(sent.encode())
    with pytest.raises(CompatbenchError, match="changed what its process sends; nothing of it"):
        receive_data(ours)


@pytest.mark.parametrize("sent", [5, [["coop", "key"]], [["coop", "key", 5]]])
def test_outdated_rows_that_a_method_has_changed_are_refused(
    sent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Planner() as planner:
        monkeypatch.setattr(planner, "_ask", lambda *_: sent)
        with pytest.raises(CompatbenchError, match="a method has changed what its process sends"):
            planner.find_outdated_rows({})


@pytest.mark.parametrize(
    "sent",
    [
        5,
        ["finished", 0],
        ["gone", 0, [0, 0], ""],
        ["finished", "first", [0, 0], ""],
        ["finished", 1, [0, 0], ""],
        ["finished", -1, [0, 0], ""],
    ],
)
def test_events_that_a_method_has_changed_are_refused(sent: Any, tmp_path: Path) -> None:
    [cell, *_] = make_plan(make_request("smoke", "zeroshot", out=tmp_path)).cells
    job = Job(cells=(cell,), store=tmp_path, cache=tmp_path, compute=cb.Compute())
    known = on_ray._read_event(job, ["finished", 0, [0, 0], "why"])
    assert known == Event("finished", cell, error="why")
    with pytest.raises(CompatbenchError, match="a method has"):
        on_ray._read_event(job, sent)


def test_a_method_file_that_ends_its_process_ends_the_run_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "quits.py"
    path.write_text("import os\nos._exit(7)\n")
    with pytest.raises(CompatbenchError, match="imports the methods ended with exit code 7"):
        cb.run("smoke", str(path), out=tmp_path, progress=False)


def test_a_debugger_finds_the_code_of_a_method_in_the_callers_process(tmp_path: Path) -> None:
    write_methods(tmp_path / "seen.py", seen="import os; os.environ['SEEN_HERE'] = 'yes'")
    here = cb.Compute(executor="here")
    cb.run("smoke", str(tmp_path / "seen.py"), out=tmp_path, progress=False, compute=here)
    assert os.environ["SEEN_HERE"] == "yes"
    with pytest.raises(CompatbenchError, match="leave out timeout and retry"):
        cb.Compute(executor="here", timeout=5.0)
