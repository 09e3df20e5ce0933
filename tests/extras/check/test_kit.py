"""The conformance kit: sound methods pass it, and each check can be failed alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from faults import METHODS, TEXT

from compatbench.cli.new_method import fill_template
from compatbench.extras.check import run_checks as kit
from compatbench.extras.check.rules import Outcome, find_checks
from compatbench.extras.check.run_checks import check_methods
from compatbench.method.registry import builtin_methods

pytestmark = pytest.mark.slow  # processes start that import everything
METHOD_CHECKS = list(find_checks())


@pytest.fixture(autouse=True)
def _fresh_registry() -> None:
    """A file that one test loads is not there for the next."""
    builtin_methods.cache_clear()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Of every check of every method in the file, by method and check."""
    builtin_methods.cache_clear()
    path = tmp_path_factory.mktemp("faults") / "methods.py"
    path.write_text(TEXT, encoding="utf-8")
    seen: list[Outcome] = []
    found = check_methods(str(path), progress=seen.append)
    assert sorted(found["seconds"]) == sorted(outcome.seconds for outcome in seen)
    return found.set_index(["method", "check"])


def failures(outcomes: pd.DataFrame, method: str) -> dict[str, str]:
    """The reasons by the checks that a method failed."""
    rows = outcomes.loc[method]
    return rows.loc[rows["status"] == "fail", "reason"].to_dict()


def test_what_lies_above_a_clone_cannot_be_imported_by_a_check(tmp_path: Path) -> None:
    above = str(Path(kit.__file__).parents[5])
    (tmp_path / "looker.py").write_text(
        "import sys\nfrom dataclasses import replace\n"
        "from compatbench.methods.taskres import TaskRes\n"
        "class Looker(TaskRes):\n"
        "    card = replace(TaskRes.card, name='looker')\n"
        "    def fit(self, backbone, data, rng):\n"
        f"        assert {above!r} not in sys.path\n"
        "        return super().fit(backbone, data, rng)\n"
    )
    # This process has that folder on its path, as pytest puts it there for these tests.
    command = [sys.executable, "-m", "compatbench", "check", "looker.py", "--only", "fit"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_a_file_that_cannot_be_loaded_fails_where_all_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = builtin_methods()
    registry.broken["torn"] = "torn.py:3: SyntaxError: bad"
    for name in [name for name in registry.classes if name != "taskres"]:
        del registry.classes[name]
    torn = check_methods("all", "card").set_index("method").loc["torn"]
    assert (torn["check"], torn["status"]) == ("load", "fail")
    assert torn["reason"] == "torn.py:3: SyntaxError: bad"
    assert len(check_methods("taskres", "card")) == 1


def test_a_method_that_hangs_fails_the_check_that_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = fill_template("gone").replace('shift = module["shift"]', "import time; time.sleep(999)")
    (tmp_path / "gone.py").write_text(text)

    def hurry(outcome: Outcome) -> None:
        hanging = (outcome.method, outcome.check) == ("gone", "card")
        monkeypatch.setattr(kit, "SECONDS", 0.0 if hanging else 600.0)

    names = f"{tmp_path / 'gone.py'},taskres"
    found = check_methods(names, "card,fit,logits", progress=hurry).set_index("method")
    assert found.loc["gone", "status"].tolist() == ["pass", "fail"]
    assert found.loc["gone", "reason"].iloc[-1] == "it took longer than 0 s"
    assert found.loc["taskres", "status"].tolist() == ["pass"] * 3


@pytest.mark.parametrize(
    "method", ["Sound", "Free", "Told", "UpdatesBlocks", "Scales", "Untrained"]
)
def test_a_sound_method_passes_every_check(method: str, outcomes: pd.DataFrame) -> None:
    assert outcomes.loc[method].index.tolist() == METHOD_CHECKS
    assert failures(outcomes, method) == {}


@pytest.mark.parametrize("method", METHODS)
def test_a_fault_fails_the_check_that_it_breaks_and_no_other(
    method: str, outcomes: pd.DataFrame
) -> None:
    """With one line: what is wrong, the fix, and of an author's mistake where it is."""
    fault, failed = METHODS[method], failures(outcomes, method)
    # What remembers earlier fits is another in a process that has not seen them.
    also = {"other-process"} if fault.check == "same-seed" else set()
    assert failed.keys() - also == {fault.check}
    told = failed[fault.check]
    assert re.search(fault.pattern, told)
    if fault.has_line:
        named = re.search(r"\(methods\.py:(\d+)\)", told)
        assert named is not None
        assert int(named[1]) in fault.lines


def test_each_check_can_be_failed_alone() -> None:
    assert {fault.check for fault in METHODS.values()} == set(METHOD_CHECKS)


@pytest.mark.parametrize(
    ("method", "check", "status", "pattern"),
    [
        ("Told", "needs", "pass", "^descriptions, stream, teacher, unlabelled$"),
        ("Sound", "fit", "pass", r"^80 parameters, 320 bytes$"),
        ("Excused", "zero-shot-setting", "skip", "zero_shot_at"),
        ("Excused", "class-order", "skip", r"^its classes .* \(excused: logits on the source"),
    ],
)
def test_a_check_says_what_it_has_found(
    method: str, check: str, status: str, pattern: str, outcomes: pd.DataFrame
) -> None:
    found = outcomes.loc[(method, check)]
    assert found["status"] == status
    assert re.search(pattern, found["reason"])


def test_without_a_module_the_checks_that_need_one_are_skipped(outcomes: pd.DataFrame) -> None:
    statuses = Counter(outcomes.loc["RaisesInFit", "status"])
    assert statuses == {"pass": 2, "fail": 1, "skip": len(METHOD_CHECKS) - 3}
    assert "fix 'fit' first" in outcomes.loc[("RaisesInFit", "place"), "reason"]
