"""A cell: one fit, and its predictions on every backbone of its upgrades; and what is kept of it.

A cell leaves three files in the store: the module, the predictions, and a record of how both went.
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
# What provenance names, and what it says: no mark of it makes markup or a link of a page.
MadeBy = Annotated[
    str, StringConstraints(pattern=f"^({'|'.join((*PACKAGES, 'python', 'processor'))})$")
]
MadeWith = Annotated[str, StringConstraints(pattern=r"^[\w ()@.,+/-]{1,200}$")]

# A backbone, a test set, and the hash of the backbone's weights and of the test set.
Where = tuple[str, str, str]

# So begins the reason of a row of classes that the module knows nothing of.
NOT_APPLICABLE = "not applicable"
Status = Literal["ok", "not transferable", "failed"]


def _one_line(text: str) -> str:
    # A line of a results file is a row, for diffs and for spreadsheets, which compute formulas.
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()).lstrip(" =+-@")


# Why there is no number.
Reason = Annotated[str, AfterValidator(_one_line)]


def shorten_key(key: str) -> str:
    """Return a key, or another hash, as result files have it."""
    return key[:KEY_DIGITS]


@dataclass(frozen=True)
class Cell:
    """One (method, task, source, shots, seed) with the backbones and test sets to measure."""

    key: str  # hash of everything that decides the records; empty until that is known
    # Of what decides the module, which the cells of all transfers share; the key of the copied.
    fit_key: str
    name: str  # what the suite and the leaderboard call the method with this config
    method: str
    config: dict[str, Any] = field(hash=False)  # the method's resolved settings, as JSON values
    task: str
    shots: int
    seed: int
    backbones: tuple[str, ...]  # the source, then every target of an upgrade that starts at it
    test_sets: tuple[str, ...]  # the task, then its variants in the suite
    places: tuple[Where, ...]  # each of these with each, and the hash of both
    training: TrainingCard
    plugin: str | None = None  # the file a method outside the package was loaded from
    held_out_of: int | None = None  # the shots of the draw that ``hold_out`` takes this one from
    transfer: str = COPIED  # how the module reaches the backbones
    transfer_plugin: str | None = None  # the file that the transfer was loaded from, if not ours
    broken: str = ""  # why it cannot be measured on these test sets, whose images are here

    @property
    def copied(self) -> Cell:
        """The cell of the same fit whose module is attached untouched."""
        return replace(self, key=self.fit_key, transfer=COPIED, transfer_plugin=None)

    @property
    def label(self) -> str:
        """The name for people: with the transfer, where the module is not copied."""
        return self.name if self.transfer == COPIED else f"{self.name} ({self.transfer})"

    @property
    def source(self) -> str:
        return self.backbones[0]

    def __str__(self) -> str:
        return f"{self.label} · {self.task} · {count_shots(self.shots)} · seed {self.seed}"


class Outcome(BaseModel):
    """How predicting went at one backbone on one test set; the predictions have a file."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # records of old have counts, too

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
    """How a cell went: its fit, and its predictions at each place; one file in the run store."""

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
    # GPU; None where the system does not tell.
    peak_memory: NonNegativeInt | None = None

    @property
    def errors(self) -> list[str]:
        """The errors of the last attempt: of the fit, or of the records without a number."""
        if self.status == "failed":
            return [self.error]
        return [record.reason for record in self.records if record.status == "failed"]

    @property
    def state(self) -> str:
        """How the cell ended: ``ok``, ``not transferable`` or ``failed``."""
        if self.errors:
            return "failed"
        refused = any(record.status == "not transferable" for record in self.records)
        return "not transferable" if refused else "ok"


def describe_cell(cell: Cell, status: str = "failed", **values: object) -> CellRecord:
    """A record of a cell with these values; without any, of a failed one."""
    shared = ("key", "method", "config", "task", "source", "shots", "seed", "transfer")
    about = {name: getattr(cell, name) for name in shared}
    about |= {"status": status, "provenance": provenance(), **values}
    return CellRecord.model_validate(about)


@cache
def provenance() -> dict[str, str]:
    """Versions of what computes the numbers, and the processor, with the GPU if one does."""
    versions = {package: version(package) for package in PACKAGES}
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.is_file() else ():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    from torch import cuda

    from compatbench.backbone.parts.products import choose_products

    if products := choose_products():
        processor = f"{processor}, products by {products}"
    if cuda.is_initialized():
        processor = f"{processor}, {cuda.get_device_name()}"
    processor = re.sub(r"[^\w ()@.,+/-]", " ", processor)[:200]
    return versions | {"python": platform.python_version(), "processor": processor}
