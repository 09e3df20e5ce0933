"""The conformance kit: sound methods pass it, and each check can be failed alone."""

from __future__ import annotations

import os
import re
import subprocess
import venv
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
    """Forget the file that the test before has loaded."""
    builtin_methods.cache_clear()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return the outcomes of all checks of all methods in the file, by method and check."""
    builtin_methods.cache_clear()
    path = tmp_path_factory.mktemp("faults") / "methods.py"
    path.write_text(TEXT, encoding="utf-8")
    seen: list[RuleOutcome] = []
    found = check(str(path), progress=seen.append)
    assert sorted(found["seconds"]) == sorted(outcome.seconds for outcome in seen)
    return found.set_index(["method", "check"])


def failures(outcomes: pd.DataFrame, method: str) -> dict[str, str]:
    """Return the reasons by the checks that a method failed."""
    rows = outcomes.loc[method]
    return rows.loc[rows["status"] == "fail", "reason"].to_dict()


def test_a_method_cannot_harm_the_next_one(tmp_path: Path) -> None:
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


def test_a_file_that_cannot_be_loaded_fails_when_all_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = builtin_methods()
    registry.broken["torn"] = "torn.py:3: SyntaxError: bad"
    for name in [name for name in registry.classes if name != "taskres"]:
        del registry.classes[name]
    torn = check("all", "card").set_index("method").loc["torn"]
    assert torn["check"] == "load"
    assert torn["status"] == "fail"
    assert torn["reason"] == "torn.py:3: SyntaxError: bad"
    assert len(check("taskres", "card")) == 1


def test_a_method_that_hangs_fails_only_the_check_at_which_it_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = fill_template("gone").replace('shift = module["shift"]', "import time; time.sleep(999)")
    (tmp_path / "gone.py").write_text(text)

    def hurry(outcome: RuleOutcome) -> None:
        # The check after 'card' hangs: it gets no time at all.
        hangs_next = (outcome.method, outcome.check) == ("gone", "card")
        monkeypatch.setattr(check_processes, "SECONDS", 0.0 if hangs_next else 600.0)

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
def test_a_fault_fails_one_check_with_one_line(method: str, outcomes: pd.DataFrame) -> None:
    """The line says what is wrong, how to fix it and, for an author's mistake, where it is."""
    fault = METHODS[method]
    failed = failures(outcomes, method)
    # A method that remembers earlier fits behaves differently in a process that has not seen them.
    follows = {"other-process"} if fault.check == "same-seed" else set()
    assert failed.keys() - follows == {fault.check}
    reason = failed[fault.check]
    assert re.search(fault.pattern, reason)
    if fault.names_line:
        named = re.search(r"\(methods\.py:(\d+)\)", reason)
        assert named is not None
        assert int(named[1]) in fault.lines


def test_every_check_has_a_fault() -> None:
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
def test_a_remark_says_what_a_check_has_found(
    method: str, check: str, status: str, pattern: str, outcomes: pd.DataFrame
) -> None:
    found = outcomes.loc[(method, check)]
    assert found["status"] == status
    assert re.search(pattern, found["reason"])


def test_without_a_module_the_checks_that_need_one_are_skipped(outcomes: pd.DataFrame) -> None:
    statuses = Counter(outcomes.loc["RaisesInFit", "status"])
    assert statuses == {"pass": 2, "fail": 1, "skip": len(METHOD_CHECKS) - 3}
    assert "fix 'fit' first" in outcomes.loc[("RaisesInFit", "place"), "reason"]


def test_other_process_starts_where_folder_names_are_not_ascii(tmp_path: Path) -> None:
    """Python reads the folder of an editable installation in the encoding of the locale."""
    folder = tmp_path / "Prüfung"
    venv.create(folder / "venv", symlinks=True)
    [packages] = (folder / "venv").glob("lib/*/site-packages")
    (packages / "editable.pth").write_text(f"{folder}\n", encoding="utf-8")
    environment = os.environ | check_processes.ENVIRONMENT_ELSEWHERE
    command = [folder / "venv" / "bin" / "python", "-c", ""]
    subprocess.run(command, env=environment, check=True)
