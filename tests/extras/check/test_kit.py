"""The conformance kit: sound methods pass it, and each check can be failed alone."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import sound_methods
from faults import METHODS, TEXT

from compatbench.cli.new_method import fill_template
from compatbench.extras.check import check_processes
from compatbench.extras.check.check import check
from compatbench.extras.check.outcome import RuleOutcome
from compatbench.extras.check.rules import RULES
from compatbench.method.registry import builtin_methods

pytestmark = pytest.mark.slow  # processes start that import everything
METHOD_CHECKS = list(RULES)


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
    seen: list[RuleOutcome] = []
    found = check(str(path), progress=seen.append)
    assert sorted(found["seconds"]) == sorted(outcome.seconds for outcome in seen)
    return found.set_index(["method", "check"])


def failures(outcomes: pd.DataFrame, method: str) -> dict[str, str]:
    """The reasons by the checks that a method failed."""
    rows = outcomes.loc[method]
    return rows.loc[rows["status"] == "fail", "reason"].to_dict()


def test_what_one_method_leaves_in_its_process_does_not_harm_the_next(tmp_path: Path) -> None:
    path = tmp_path / "pair.py"
    path.write_text(
        Path(sound_methods.__file__).read_text(encoding="utf-8") + "\n\n"
        "class Careless(Sound):\n"
        "    def begin(self, backbone, data, rng):\n"
        "        torch.set_default_dtype(torch.float64)\n\n\n"
        "class Careful(Sound):\n"
        "    def begin(self, backbone, data, rng):\n"
        "        assert torch.get_default_dtype() == torch.float32\n"
    )
    found = check(str(path), "fit,logits").set_index("method")
    assert "fail" in set(found.loc["Careless", "status"])
    assert set(found.loc["Careful", "status"]) == {"pass"}


def test_a_file_that_cannot_be_loaded_fails_where_all_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = builtin_methods()
    registry.broken["torn"] = "torn.py:3: SyntaxError: bad"
    for name in [name for name in registry.classes if name != "taskres"]:
        del registry.classes[name]
    torn = check("all", "card").set_index("method").loc["torn"]
    assert (torn["check"], torn["status"]) == ("load", "fail")
    assert torn["reason"] == "torn.py:3: SyntaxError: bad"
    assert len(check("taskres", "card")) == 1


def test_a_method_that_hangs_fails_the_check_that_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = fill_template("gone").replace('shift = module["shift"]', "import time; time.sleep(999)")
    (tmp_path / "gone.py").write_text(text)

    def hurry(outcome: RuleOutcome) -> None:
        hanging = (outcome.method, outcome.check) == ("gone", "card")
        monkeypatch.setattr(check_processes, "SECONDS", 0.0 if hanging else 600.0)

    names = f"{tmp_path / 'gone.py'},taskres"
    found = check(names, "card,fit,logits", progress=hurry).set_index("method")
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
