"""What the machine says may decide nothing in a method: each such method is found by ``check``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compatbench.cli.authoring import fill_template
from compatbench.engine.confined.remote import ConfinedRegistry
from compatbench.extras.check import Outcome, run_confined
from compatbench.extras.check.checks import INSIDE
from compatbench.files.project_folders import tasks_folder

pytestmark = pytest.mark.slow
OTHER = "a new process gives (another module|other logits)"
LINES = {
    "nothing": ("0", ""),
    "a variable": ("len(os.environ.get('BOOST', ''))", "the variable 'BOOST' of the environment"),
    "its home": ("len(str(Path.home()))", "the variable 'HOME' of the environment"),
    "the folder": ("len(str(Path.cwd()))", r"os.getcwd\(\)"),
    "the process": ("os.getpid()", r"os.getpid\(\)"),
    "the hour": ("time.localtime().tm_hour", "the hour"),
    "the day": ("datetime.now().day", "the hour"),
    "a hash": ("hash('boost') % 1000", OTHER),
    "a file's time": ("os.path.getmtime(__file__) / 1e6", OTHER),
    "what it classified": ("seen.append(1) or len(seen)", OTHER),
}


def outcome_of(folder: Path, line: str, name: str = "other-process") -> Outcome:
    """What a check finds of a method whose logits depend on a line."""
    text = fill_template("mine").replace(
        "import torch\n",
        "import os, time\nfrom datetime import datetime\nfrom pathlib import Path\n"
        "import torch\nseen = []\n",
        1,
    )
    path = folder / "mine.py"
    path.write_text(
        text.replace("text, temperature =", f"shift = shift + ({line}); text, temperature =")
    )
    registry = ConfinedRegistry([])
    registry.add_file(path)
    [*_, found] = run_confined(registry, "mine", "logits", name)
    return found


def test_a_method_that_patches_the_checks_is_judged_elsewhere(tmp_path: Path) -> None:
    """But for the checks of the process that it is in, whose outcome it can invent."""
    text = fill_template("mine").replace(
        "import torch\n",
        "import sys\nimport torch\n"
        "if checks := sys.modules.get('compatbench.extras.check.checks'):\n"
        "    checks._run = lambda *_: ('pass', 'so it says')\n",
        1,
    )
    path = tmp_path / "mine.py"
    path.write_text(text.replace("text, temperature =", "shift = shift / 0; text, temperature ="))
    registry = ConfinedRegistry([])
    registry.add_file(path)
    found = {one.check: one for one in run_confined(registry, "mine")}
    invented = {name for name, one in found.items() if one.reason == "so it says"}
    assert invented == INSIDE
    assert found["logits"].status == found["few-shots"].status == "fail"
    assert found["logits"].reason == "logits of 7 images and 5 classes on the source are not finite"


@pytest.mark.parametrize("what", LINES)
def test_what_depends_on_the_machine_is_found(what: str, tmp_path: Path) -> None:
    line, reason = LINES[what]
    found = outcome_of(tmp_path, line)
    assert (found.check, found.status) == ("other-process", "fail" if reason else "pass"), found
    assert re.search(reason, found.reason)


def test_a_method_that_reads_labels_is_found(tmp_path: Path) -> None:
    trap = tasks_folder() / "mini" / "splits" / "weather.csv"
    found = outcome_of(tmp_path, f"len(open({str(trap)!r}).read())", "logits")
    assert found.status == "fail"
    assert re.search(r"reads .*weather\.csv while it is", found.reason)
