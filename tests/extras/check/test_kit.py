"""The conformance kit: sound methods pass it, and each check can be failed alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import sound_methods
import torch
from command_line import invoke
from faults import METHODS, TEXT
from safetensors.torch import save_file

from compatbench.cli.new_method import fill_template
from compatbench.data.refusals import find_refusal
from compatbench.errors import CompatbenchError
from compatbench.extras.check import check_processes
from compatbench.extras.check.check import check
from compatbench.extras.check.check_host import select
from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.extras.check.outcome import RuleOutcome
from compatbench.extras.check.rules import RULES, try_rule
from compatbench.method.registry import MethodRegistry, builtin_methods

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
    path.with_name("listed.txt").write_text("2")
    path.with_name("unlisted.txt").write_text("2")
    save_file({"a": torch.zeros(1)}, path.with_name("unlisted.safetensors"))
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
    monkeypatch.setitem(registry.broken, "torn", "torn.py:3: SyntaxError: bad")
    assert select("taskres", "card").broken == {}
    selection = replace(select("all", "card"), methods={}, outside={})
    assert set(selection.checks) == {"card"}
    monkeypatch.setattr("compatbench.extras.check.check.try_rules", lambda *_: (selection, []))
    [torn] = check("all", "card").to_dict("records")
    assert torn["method"] == "torn"
    assert torn["check"] == "load"
    assert torn["status"] == "fail"
    assert torn["reason"] == "torn.py:3: SyntaxError: bad"


@pytest.mark.parametrize(
    ("methods", "only", "message"),
    [
        ("taskress", "all", "no method named 'taskress'; did you mean taskres"),
        ("taskres", "crad", "no check named 'crad'; did you mean card"),
        ("no_such_*", "all", "no_such_"),
    ],
)
def test_a_selection_that_is_refused_is_one_line(methods: str, only: str, message: str) -> None:
    with pytest.raises(CompatbenchError, match=message):
        check(methods, only)


def test_finding_of_the_linter_fails_a_check_but_not_the_ranking(tmp_path: Path) -> None:
    path = tmp_path / "linted.py"
    path.write_text(
        fill_template("linted").replace("import torch\n", "import os\nimport torch\n", 1)
    )
    found = check(str(path), "lint").iloc[0]
    assert found["status"] == "fail"
    assert re.match(r"linted\.py:\d+:8: F401 .* `os` imported but unused", found["reason"])
    registry = MethodRegistry()
    identity, _ = registry.identify(*registry.add_file(path))
    assert find_refusal(identity) == ""


def test_without_the_linter_its_check_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    outcome = try_rule("lint", MethodUnderTest(builtin_methods().get("taskres")))
    assert (outcome.status, outcome.reason.split(";")[0]) == ("skip", "ruff is not installed")


def test_consequences_of_a_failure_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "torn.py"
    path.write_text(fill_template("torn").replace("temperature * F", "float('nan') * F"))
    shown = " ".join(invoke("check", path).output.split())
    assert "fit fail 'scale' has numbers that are not finite" in shown
    assert shown.count("finite") == 1
    assert "24 more checks were skipped: first fix 'fit'" in shown


def test_this_process_imports_no_method_and_no_torch_to_check() -> None:
    code = (
        "import sys\nfrom compatbench.extras.check import check\n"
        "loaded = {'torch', 'compatbench.methods.coop'} & {*sys.modules}\nassert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
    "method",
    ["Sound", "Free", "Told", "UpdatesBlocks", "Scales", "Untrained", "OpensAListedFile"],
)
def test_a_sound_method_passes_every_check(method: str, outcomes: pd.DataFrame) -> None:
    assert outcomes.loc[method].index.tolist() == METHOD_CHECKS
    assert failures(outcomes, method) == {}


@pytest.mark.parametrize("method", METHODS)
def test_a_fault_fails_one_check_with_one_line(method: str, outcomes: pd.DataFrame) -> None:
    """The line says what is wrong, how to fix it and, for an author's mistake, where it is."""
    fault = METHODS[method]
    failed = failures(outcomes, method)
    assert failed.keys() == {fault.check}
    reason = failed[fault.check]
    assert re.search(fault.pattern, reason)
    if fault.names_line:
        named = re.search(r"\(methods\.py:(\d+)\)", reason)
        assert named is not None
        assert int(named[1]) in fault.lines


def test_every_check_has_a_fault() -> None:
    # What the linter finds, it finds in the whole file.
    assert {fault.check for fault in METHODS.values()} == {*METHOD_CHECKS} - {"lint"}


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
    assert statuses == {"pass": 3, "fail": 1, "skip": len(METHOD_CHECKS) - 4}
    reason = outcomes.loc[("RaisesInFit", "place"), "reason"]
    assert reason.startswith("follows from 'fit': ZeroDivisionError")


def test_other_process_starts_where_folder_names_are_not_ascii(tmp_path: Path) -> None:
    """Python reads the folder of an editable installation in the encoding of the locale."""
    folder = tmp_path / "Prüfung"
    venv.create(folder / "venv", symlinks=True)
    [packages] = (folder / "venv").glob("lib/*/site-packages")
    (packages / "editable.pth").write_text(f"{folder}\n", encoding="utf-8")
    environment = os.environ | check_processes.ENVIRONMENT_ELSEWHERE
    command = [folder / "venv" / "bin" / "python", "-c", ""]
    subprocess.run(command, env=environment, check=True)
