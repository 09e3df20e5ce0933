"""Runs that are broken on purpose, a few times each; the numbers are in docs/reliability.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAULTS = ROOT / "benchmark" / "faults"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kills workers that it finds in /proc")
def test_nothing_is_lost_or_doubled_by_kills_crowds_damage_or_a_full_disk() -> None:
    result = subprocess.run(
        [sys.executable, str(FAULTS / "measure.py"), "--short"],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout)
    assert found["kills"]["kills"] == 4
    assert found["disk"]["runs stopped by a full disk"] > 0


def test_the_page_is_that_of_the_measured_numbers() -> None:
    code = (
        "import json, report; print(report.render(json.loads((report.HERE / 'results.json')"
        ".read_text())) == report.PAGE.read_text())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=FAULTS, capture_output=True, text=True, timeout=60
    )
    assert result.stdout == "True\n", result.stderr
