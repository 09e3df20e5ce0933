"""A cell: one fit, evaluated at every step of its upgrade path; and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from compatbench.data.cards import TrainingCard
from compatbench.data.cards.suite import COPIED
from compatbench.data.shots import Shots, count_shots
from compatbench.engine.provenance import provenance
from compatbench.engine.record import Measurement

SCHEMA = 3

FailureKind = Literal["error", "oom", "killed", "timeout"]


@dataclass(frozen=True)
class Cell:
    """One (method, task, source, shots, seed) with the backbones and test sets to measure.

    Attributes:
        key: hash of everything that decides the records.
        fit_key: hash of everything that decides the fitted module, which the cells of all
            transfers share; the key of the cell whose module is copied.
        config: the method's resolved settings, as JSON values.
        backbones: the source, then every target of an upgrade that starts at it.
        test_sets: the task, then its variants in the suite.
        plugin: the file a method outside the package was loaded from.
        shots_file: the file with the draw, if it is given and not made here.
        config_name: the name that the suite gives to this config of the method, if any.
        transfer: how the module reaches the backbones.
    """

    key: str
    fit_key: str
    method: str
    config: dict[str, Any] = field(hash=False)
    task: str
    shots: int
    seed: int
    backbones: tuple[str, ...]
    test_sets: tuple[str, ...]
    training: TrainingCard
    plugin: str | None = None
    shots_file: Path | None = None
    config_name: str = ""
    transfer: str = COPIED

    @property
    def copied(self) -> Cell:
        """The cell of the same fit whose module is attached untouched."""
        return replace(self, key=self.fit_key, transfer=COPIED)

    @property
    def label(self) -> str:
        """The name for people: with the transfer, where the module is not copied."""
        return self.name if self.transfer == COPIED else f"{self.name} ({self.transfer})"

    @property
    def name(self) -> str:
        """What the suite and the leaderboard call the method with this config."""
        return self.config_name or self.method

    @property
    def source(self) -> str:
        return self.backbones[0]

    def __str__(self) -> str:
        return f"{self.label} · {self.task} · {count_shots(self.shots)} · seed {self.seed}"


class Stored(BaseModel):
    """The base of what is written to the run store: nothing unknown is read back."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Record(Measurement):
    """A measurement of a cell in the run store.

    Attributes:
        seconds: attaching and classifying, wall clock.
    """

    seconds: float = 0.0


class CellRecord(Stored):
    """Everything measured of one cell; one file in the run store.

    Attributes:
        status: of the fit; a failed fit has no records.
        fit_seconds: wall clock of the fit alone, image features excluded.
        parameters: numbers that the fit determined.
        module_bytes: size of the module's tensors.
        module: fingerprint of the module's tensors.
        error: the failure, its type first.
        trace: the last frames of the failure, innermost last.
        provenance: versions and machine.
        failure: what kind of failure the last attempt ended in; None if it ended in none.
        attempt: number of the last attempt; one that was interrupted is gone on with.
        peak_memory: most bytes in use while the cell ran: resident memory of its process, or
            tensors on its GPU; None where the system does not tell.
    """

    schema_version: int = SCHEMA
    key: str
    method: str
    config: dict[str, Any]
    task: str
    source: str
    shots: Shots
    seed: int
    transfer: str = COPIED
    status: Literal["ok", "failed"]
    fit_seconds: float = 0.0
    parameters: int = 0
    module_bytes: int = 0
    module: str = ""
    error: str = ""
    trace: tuple[str, ...] = ()
    records: tuple[Record, ...] = ()
    provenance: dict[str, str] = {}
    failure: FailureKind | None = None
    attempt: PositiveInt = 1
    peak_memory: NonNegativeInt | None = None

    @property
    def errors(self) -> list[str]:
        """The failures of the last attempt: of the fit, or of the records without a number."""
        if self.status == "failed":
            return [self.error]
        return [record.reason for record in self.records if record.status == "failed"]

    @property
    def state(self) -> str:
        """How the cell ended: ``ok``, ``not transferable`` or a kind of failure."""
        if self.failure is not None or self.errors:
            return self.failure or "error"
        refused = any(record.status == "not transferable" for record in self.records)
        return "not transferable" if refused else "ok"

    def find(self, backbone: str, test_set: str, data: str) -> Record | None:
        """The finished record of this backbone and test set, if there is one."""
        for record in self.records:
            if (record.backbone, record.test_set, record.data) == (backbone, test_set, data):
                return record if record.status != "failed" else None
        return None


def describe_cell(cell: Cell, status: str = "failed", **values: object) -> CellRecord:
    """A record of a cell with these values; without any, of a failed one."""
    return CellRecord.model_validate(
        {
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
            **values,
        }
    )
