"""Helpers of tests that run cells: suites, method files, finished cells, and a slow run."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from warm_processes import Command

from compatbench.engine.cell import Cell, CellRecord, Outcome, describe_cell
from compatbench.engine.store import RunStore
from compatbench.method.predictions import Predictions

METHODS = "zeroshot,taskres,gda,tip_adapter,coop"
SMOKE = ("run", "--suite", "smoke", "--methods", METHODS)
HEAD = "import os, time\nfrom pathlib import Path\n"
SLEEP = """Path('begun').touch()
        while not Path('go').exists():
            time.sleep(0.02)"""
PATIENCE = 240.0  # seconds, on a machine that is busy
METHOD_FILE = """
class {cls}(Method):
    card = MethodCard("{name}", "{cls}", "none", "classifier", "for a test")
    def fit(self, backbone, data, rng):
        {fit}
        return Module()
    def attach(self, module, backbone, labels):
        {attach}
        return CosineClassifier(backbone.zero_shot(labels), 1.0)
"""


def write_suite(folder: Path, name: str, **changes: object) -> Path:
    """Write the file of a suite that changes these fields of the smoke suite, and return it."""
    path = folder / f"{name}.yaml"
    values = {"name": name, "title": name.title(), "extends": "smoke", **changes}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def write_methods(path: Path, head: str = "", attach: str = "pass", **fits: str) -> None:
    """Write a method file, or add to it: the code of each method's fit by the method's name."""
    with path.open("a") as file:
        file.write(f"{head}\nfrom compatbench.method import *\n")
        for name, fit in fits.items():
            file.write(METHOD_FILE.format(cls=name.title(), name=name, fit=fit, attach=attach))


def finish(store: RunStore, cell: Cell, *backbones: str) -> CellRecord:
    """Store a cell with predictions on all of its backbones, or on these, and return its record."""
    predictions = {}
    outcomes = []
    for backbone, test_set, data in cell.places:
        if backbone not in (backbones or cell.backbones):
            continue
        where = (backbone, test_set, data)
        predictions[where] = Predictions(torch.zeros(2, dtype=torch.int32), torch.ones(2))
        store.write_zero_shot(where, cell.training.precision, predictions[where])
        outcomes.append(Outcome(backbone=backbone, test_set=test_set, data=data, status="ok"))
    store.write_predictions(cell.key, predictions)
    record = describe_cell(cell, "ok", records=outcomes)
    store.write(record)
    return record


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return the value of a condition once it is true, or at the end of the time."""
    deadline = time.monotonic() + seconds
    value = condition()
    while not value and time.monotonic() < deadline:
        time.sleep(0.05)
        value = condition()
    return value


class SlowRun:
    """A run of the smoke suite with a method that sleeps in its fit until ``go_on``.

    The end of its ``with`` block ends all of its processes and removes its temporary files.

    Args:
        also: other methods.
        before: called in the new process before the command; a function that can be pickled.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        also: str = "",
        before: Callable[[], object] | None = None,
        **env: str,
    ) -> None:
        # It contains sockets of Ray, whose paths may not be long.
        self.temporary = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
        self.folder = folder
        folder.mkdir(exist_ok=True)
        write_methods(folder / "slow.py", HEAD, slow=SLEEP)
        methods = f"{also},./slow.py".strip(",")
        command = ["run", "--suite", "smoke", *options, "--methods", methods]
        environment = os.environ | {"TMPDIR": str(self.temporary)} | env
        first = [before] if before else []
        self.process = Command(command, folder, environment, *first)
        self._sessions = {self.process.pid}

    def __enter__(self) -> SlowRun:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.process.close()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def go_on(self) -> None:
        (self.folder / "go").touch()

    def wait_for_fit(self) -> None:
        begun = self.folder / "begun"
        assert wait_until(lambda: begun.exists() or self.process.poll() is not None)
        assert begun.exists(), self.process.communicate()

    def processes(self) -> dict[int, str]:
        """Return the processes of this run by id, with their command lines."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                parent = int(fields[1])
                session = int(fields[3])
                if parent == self.process.pid:  # the driver of Ray has its own session
                    self._sessions.add(session)
                if session not in self._sessions:
                    continue
                command = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:  # it has ended
                continue
            if command:  # zombies have none
                found[int(folder.name)] = command
        return found

    def find(self, name: str) -> int:
        """Return the process whose command line begins with a name, once there is one."""

        def find() -> int | None:
            assert self.process.poll() is None, self.process.communicate()
            for pid, command in self.processes().items():
                program, _, _ = f"/{command} ".partition(" ")
                if program.endswith(name):
                    return pid
            return None

        return wait_until(find)

    def end(self, *codes: int) -> tuple[str, str]:
        """Return the text of both streams after the run ended and left nothing behind.

        Args:
            codes: the exit codes that are right.
        """
        streams = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode in codes, streams
        assert self.left_over() == []
        assert self.has_ended()
        return streams

    def has_ended(self) -> bool:
        """Return True if all processes have ended half a minute after the run's end."""
        return wait_until(lambda: not self.processes(), 30)

    def left_over(self) -> list[str]:
        """Return the temporary files, without a folder that PyTorch makes once for a user."""
        names = [path.name for path in self.temporary.iterdir()]
        return [name for name in names if not name.startswith("torchinductor")]
