"""Methods of an installed package are listed, pass their checks and run."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).with_name("example_package")
NAMES = ["outside_adapters", "outside_centres", "outside_two_views"]


@pytest.mark.slow
def test_installed_methods_pass_checks_and_run(tmp_path: Path) -> None:
    place = tmp_path / "site"
    pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    environment = os.environ | {"PYTHONPATH": str(place), "COLUMNS": "200"}

    def python(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # Build a copy, because the build leaves files beside the sources.
    sources = shutil.copytree(SOURCES, tmp_path / "sources")
    python(*pip, str(place), str(sources))
    assert "centres.json" in {path.name for path in place.rglob("*")}
    names = ",".join(NAMES)
    listed = python("-m", "compatbench", "list", "methods", names)
    assert [line.split()[0] for line in listed.splitlines()[1:]] == NAMES
    assert "3 of 3 methods pass" in python("-m", "compatbench", "check", names)
    python("-m", "compatbench", "run", "--suite", "smoke", "--methods", names, "--jobs", "1")
    for name in NAMES:
        with (tmp_path / "results" / "smoke" / f"{name}.csv").open() as rows:
            assert {row["status"] for row in csv.DictReader(rows)} == {"ok"}
