"""A cell: one fit, and its predictions on every backbone of its upgrades; and its record.

A cell leaves three files in the store: the module, the predictions, and the record, which holds
times, errors and the versions of packages.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    StringConstraints,
)

from compatbench.data.cards import COPIED, TrainingCard
from compatbench.data.cards.shots import Shots, count_shots

SCHEMA = 3
KEY_DIGITS = 16  # of a key or another hash in result files; the run store keeps all 64
PACKAGES = ("compatbench", "torch", "open_clip_torch", "timm", "numpy", "scikit-learn")
# The names and values of provenance. They contain no character that makes markup or a link of a
# page.
MadeBy = Annotated[
    str, StringConstraints(pattern=f"^({'|'.join((*PACKAGES, 'python', 'processor'))})$")
]
MAX_PROVENANCE = 200  # characters
MadeWith = Annotated[str, StringConstraints(pattern=rf"^[\w ()@.,+/-]{{1,{MAX_PROVENANCE}}}$")]

# A backbone, a test set, and the hash of the backbone's weights and of the test set.
Where = tuple[str, str, str]

# The beginning of the reason why a module has no row of other classes.
NOT_APPLICABLE = "not applicable"
Status = Literal["ok", "not transferable", "failed"]


def _one_line(text: str) -> str:
    """Return a text as one printable line that no spreadsheet takes for a formula."""
    # A line of a results file is a row.
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split()).lstrip(" =+-@")


# The reason why there is no number.
Reason = Annotated[str, AfterValidator(_one_line)]


def shorten_key(key: str) -> str:
    """Return a key, or another hash, as it is written in result files."""
    return key[:KEY_DIGITS]


@dataclass(frozen=True)
class Cell:
    """One (method, task, source, shots, seed) with the backbones and test sets to measure."""

    key: str  # hash of everything that decides the records; empty until that is known
    # Hash of everything that decides the module; the key of the copied cell. The cells of all
    # transfers share it.
    fit_key: str
    name: str  # of the method with this config, in the suite and on the leaderboard
    method: str
    config: dict[str, Any] = field(hash=False)  # the method's resolved settings, as JSON values
    task: str
    shots: int
    seed: int
    backbones: tuple[str, ...]  # the source, then every target of an upgrade that starts at it
    test_sets: tuple[str, ...]  # the task, then its variants in the suite
    places: tuple[Where, ...]  # every backbone with every test set, and the hash of both
    training: TrainingCard
    plugin: str | None = None  # the file a method outside the package was loaded from
    identity: str | None = None  # of the method's code, as keys contain it
    held_out_of: int | None = None  # the shots of the draw that ``hold_out`` takes this one from
    transfer: str = COPIED  # by which the module reaches the backbones
    transfer_plugin: str | None = None  # the file a transfer outside the package was loaded from
    transfer_identity: str | None = None  # of the code in that file
    broken: str = ""  # the reason why it cannot be measured: images are here, but broken
    # The fits of the suite's other tasks on every backbone, for a transfer that needs them.
    others: tuple[Cell, ...] = ()

    @property
    def copied(self) -> Cell:
        """The cell of the same fit whose module is attached untouched."""
        return replace(
            self,
            key=self.fit_key,
            transfer=COPIED,
            transfer_plugin=None,
            transfer_identity=None,
            others=(),
        )

    @property
    def label(self) -> str:
        """The name for people: with the transfer, unless the module is copied."""
        if self.transfer == COPIED:
            return self.name
        return f"{self.name} ({self.transfer})"

    @property
    def source(self) -> str:
        return self.backbones[0]

    def __str__(self) -> str:
        return f"{self.label} · {self.task} · {count_shots(self.shots)} · seed {self.seed}"


class Outcome(BaseModel):
    """The outcome of predicting on one backbone and test set; the predictions have a file."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # earlier records also have counts

    backbone: str
    test_set: str  # the task itself, or a variant of it
    data: str  # hash of the backbone's weights and of the test set
    status: Status
    reason: Reason = ""
    # As ``prompt_diversity``; None for methods without a context of two vectors or more.
    prompt_diversity: float | None = None
    seconds: float = 0.0  # of attaching and classifying

    @property
    def where(self) -> Where:
        return self.backbone, self.test_set, self.data


class CellRecord(BaseModel):
    """The record of a cell's fit and of its predictions at each place; a file in the store."""

    # Records of earlier versions have more fields.
    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA
    key: str
    method: str
    config: dict[str, Any]
    task: str
    source: str
    shots: Shots
    seed: int
    transfer: str = COPIED
    status: Literal["ok", "failed"]  # of the fit; a failed one has no records
    # Wall clock of the fit alone, image features excluded; None if the record of it was lost.
    fit_seconds: float | None = 0.0
    parameters: int = 0  # numbers that the fit determined
    module_bytes: int = 0  # size of the module's tensors
    module: str = ""  # their fingerprint
    error: str = ""  # the failure, its type first
    records: tuple[Outcome, ...] = ()  # by place
    provenance: dict[str, str] = {}  # versions and machine
    # Most bytes in use while the cell ran: resident memory of its process, or tensors on its
    # GPU; None if the system does not report it.
    peak_memory: NonNegativeInt | None = None

    @property
    def errors(self) -> list[str]:
        """The errors of the last attempt: of the fit, or of the records without a number."""
        if self.status == "failed":
            return [self.error]
        return [record.reason for record in self.records if record.status == "failed"]

    @property
    def state(self) -> str:
        """The result of the whole cell: ``ok``, ``not transferable`` or ``failed``."""
        if self.errors:
            return "failed"
        if any(record.status == "not transferable" for record in self.records):
            return "not transferable"
        return "ok"


def describe_cell(cell: Cell, status: str = "failed", **values: object) -> CellRecord:
    """Return a record of a cell with these values; without any, that of a failed cell."""
    about = {
        "key": cell.key,
        "method": cell.method,
        "config": cell.config,
        "task": cell.task,
        "source": cell.source,
        "shots": cell.shots,
        "seed": cell.seed,
        "transfer": cell.transfer,
        "status": status,
        "provenance": provenance(),
    }
    return CellRecord.model_validate(about | values)


@cache
def provenance() -> dict[str, str]:
    """Return the versions of packages and of Python, and the processor, with the GPU if in use."""
    from torch import cuda

    versions = {package: version(package) for package in PACKAGES}
    processor = _name_processor()
    if cuda.is_initialized():
        processor = f"{processor}, {cuda.get_device_name()}"
    processor = re.sub(r"[^\w ()@.,+/-]", " ", processor)[:MAX_PROVENANCE]
    return versions | {"python": platform.python_version(), "processor": processor}


def _name_processor() -> str:
    """Return the model of the processor; on Linux from the system's list, which is exact."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
