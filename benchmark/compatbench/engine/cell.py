"""A cell: one fit, evaluated at every step of its upgrade path; and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from compatbench.data.cards import TrainingCard
from compatbench.data.shots import Shots, count_shots

SCHEMA = 2

Status = Literal["ok", "not transferable", "failed"]
FailureKind = Literal["error", "oom", "killed", "timeout"]


@dataclass(frozen=True)
class Cell:
    """One (method, task, source, shots, seed) with the backbones and test sets to measure.

    Attributes:
        key: hash of everything that decides the fitted module.
        config: the method's resolved settings, as JSON values.
        backbones: the source, then every target of an upgrade that starts at it.
        test_sets: the task, then its variants in the suite.
        plugin: the file a method outside the package was loaded from.
        shots_file: the file with the draw, if it is given and not made here.
        config_name: the name that the suite gives to this config of the method, if any.
    """

    key: str
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

    @property
    def name(self) -> str:
        """What the suite and the leaderboard call the method with this config."""
        return self.config_name or self.method

    @property
    def source(self) -> str:
        return self.backbones[0]

    def __str__(self) -> str:
        return f"{self.name} · {self.task} · {count_shots(self.shots)} · seed {self.seed}"


class Stored(BaseModel):
    """The base of what is written to the run store: nothing unknown is read back."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Record(Stored):
    """A cell at one backbone on one test set.

    Attributes:
        data: hash of the backbone's weights and of the test set.
        correct: images classified right by the module, of ``total``.
        zero_shot_correct: the same for this backbone's own zero-shot classifier.
        negative_flips, positive_flips, inconsistent_errors: images whose answer differs from the
            same module's on the source, as in ``predictions.Flips``; None on the source itself.
        ece: expected calibration error in percent.
        reason: why there is no number, if ``status`` is not ``ok``.
        seconds: attaching and classifying, wall clock.
    """

    backbone: str
    test_set: str
    data: str
    status: Status
    correct: int | None = None
    total: int | None = None
    zero_shot_correct: int | None = None
    negative_flips: int | None = None
    positive_flips: int | None = None
    inconsistent_errors: int | None = None
    ece: float | None = None
    reason: str = ""
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
