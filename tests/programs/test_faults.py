"""Runs that are broken on purpose, a few times each; the numbers are in docs/reliability.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[2] / "benchmark" / "faults"


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
    results = json.loads(result.stdout)
    assert results["kills"]["kills"] == 3
    assert results["disk"]["runs stopped by a full disk"] > 0
