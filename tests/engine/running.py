"""Cells that are finished, methods in files, and runs: of the command line, and of a slow cell."""

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

from compatbench.engine.cell import Cell, CellRecord, describe_cell
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
    """The file of a suite that is the smoke suite but for these fields."""
    path = folder / f"{name}.yaml"
    values = {"name": name, "title": name.title(), "extends": "smoke", **changes}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def write_methods(path: Path, head: str = "", attach: str = "pass", **fits: str) -> None:
    """Writes a method file, or adds to it: methods by name, and what they do in their fit."""
    bodies = [
        METHOD_FILE.format(cls=name.title(), name=name, fit=fit, attach=attach)
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


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What a condition gives once it is true, or at the end of its time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


class SlowRun:
    """A run of the smoke suite with a method that sleeps in its fit until ``go_on``.

    What is left of it is ended and removed after its ``with``.

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
        # Sockets of Ray are in it, and their paths may not be long.
        self.temporary = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
        self.folder = folder
        folder.mkdir(exist_ok=True)
        write_methods(folder / "slow.py", HEAD, slow=SLEEP)
        command = ["run", "--suite", "smoke", *options, "--methods", f"{also},./slow.py".strip(",")]
        environment = os.environ | {"TMPDIR": str(self.temporary)} | env
        self.process = Command(command, folder, environment, *filter(None, [before]))
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
        """The processes of this run by id, with their command lines."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                fields = (place / "stat").read_text().rpartition(")")[2].split()
                parent, session = int(fields[1]), int(fields[3])
                if parent == self.process.pid:  # the driver of Ray has a session of its own
                    self._sessions.add(session)
                if session in self._sessions:
                    found[int(place.name)] = (place / "cmdline").read_text().replace("\0", " ")
            except OSError:  # it has ended
                continue
        return {pid: command for pid, command in found.items() if command}  # no zombies

    def find(self, name: str) -> int:
        """The process whose command line begins with a name, once there is one."""

        def look() -> list[int]:
            assert self.process.poll() is None, self.process.communicate()
            commands = self.processes().items()
            return [pid for pid, line in commands if f"/{line} ".split(" ")[0].endswith(name)]

        return wait_until(look)[0]

    def end(self, code: int) -> tuple[str, str]:
        """What it has said on both streams; it ends with this code and leaves nothing."""
        said = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == code, said
        assert self.left_over() == []
        assert self.has_ended()
        return said

    def has_ended(self) -> bool:
        """Whether no process is left, half a minute after the run's end."""
        return wait_until(lambda: not self.processes(), 30)

    def left_over(self) -> list[str]:
        """What is in the temporary folder, but for a folder that PyTorch makes once for a user."""
        left = (path.name for path in self.temporary.iterdir())
        return [name for name in left if not name.startswith("torchinductor")]
