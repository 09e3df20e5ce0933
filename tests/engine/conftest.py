"""The command line in this process, and one undisturbed smoke run that many tests look at."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from command_line import forget_files

import compatbench.cli.app
from compatbench.cli import main
from compatbench.data.dataset_folders import set_data_roots
from compatbench.engine.cell import Cell, CellRecord, describe_cell
from compatbench.engine.store import RunStore
from compatbench.method.predictions import Predictions

Run = Callable[..., subprocess.CompletedProcess[str]]
SMOKE = ("run", "--suite", "smoke", "--methods", "zeroshot,taskres,gda,tip_adapter,coop")
COLUMNS = {"COLUMNS": "100"}
METHOD = """
class {cls}(Method):
    card = MethodCard("{name}", "{cls}", "none", "classifier", "for a test")
    def fit(self, backbone, data, rng):
        {fit}
        return Module()
    def attach(self, module, backbone, labels):
        {attach}
        return CosineClassifier(backbone.zero_shot(labels), 1.0)
"""


def write_methods(path: Path, head: str = "", attach: str = "pass", **fits: str) -> None:
    """Writes a method file, or adds to it: methods by name, and what they do in their fit."""
    bodies = [
        METHOD.format(cls=name.title(), name=name, fit=fit, attach=attach)
        for name, fit in fits.items()
    ]
    with path.open("a") as file:
        file.write("".join([head, "\nfrom compatbench.method import *\n", *bodies]))


def finish(store: RunStore, cell: Cell, *backbones: str) -> CellRecord:
    """Stores a cell that has predictions on all of its backbones, or on these."""
    places = [where for where in cell.places if where[0] in (backbones or cell.backbones)]
    answers = {
        where: Predictions(torch.zeros(2, dtype=torch.int32), torch.ones(2)) for where in places
    }
    for where in places:
        store.write_zero_shot(where, cell.training.precision, answers[where])
    store.write_predictions(cell.key, answers)
    names = ("backbone", "test_set", "data")
    records = [dict(zip(names, where, strict=True), status="ok") for where in places]
    record = describe_cell(cell, "ok", records=records)
    store.write(record)
    return record


@pytest.fixture(autouse=True, scope="session")
def _heeds_ctrl_c() -> Iterator[None]:
    """What a script starts in its background ignores Ctrl-C, and so would the tests' runs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever looks at the smoke run has to wait for it."""
    for item in items:
        if "smoke" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def compatbench() -> Run:
    """Runs the command line in this process, with one worker unless told otherwise."""

    def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "run" and not {"--jobs", "-j", "--executor"} & set(arguments):
            arguments = (*arguments, "--jobs", "1")
        out, errors, code = io.StringIO(), io.StringIO(), 0
        before = dict(os.environ)
        with (
            pytest.MonkeyPatch.context() as patch,
            warnings.catch_warnings(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
        ):
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["compatbench", *arguments])
            os.environ.update(COLUMNS | environment)
            forget_files()
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            finally:
                # Options set variables for worker processes, and roots for this one.
                os.environ.clear()
                os.environ.update(before)
                set_data_roots([])
                forget_files()
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())

    return run


@pytest.fixture(scope="session")
def process() -> Run:
    """Runs the command line as a user does, in a process of its own; seconds slower."""

    def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "compatbench", *arguments],
            cwd=cwd,
            env=os.environ | COLUMNS | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def smoke(process: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished smoke run of some methods, with two workers."""
    folder = tmp_path_factory.mktemp("smoke")
    result = process(*SMOKE, "--jobs", "2", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder
