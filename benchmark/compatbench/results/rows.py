"""One line of a result file, checked: what ``results/<suite>/<method>.csv`` holds.

A row is one record: a fitted module at one backbone on one test set. Counts are
kept, not percentages, so nothing is rounded. Times, which no two runs share, are
in ``<method>.cost.csv`` under the same keys.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compatbench.data.cards import BackboneName, Name
from compatbench.data.cards.suite import COPIED, ConfigName
from compatbench.data.shots import Shots
from compatbench.engine.cell import Count, Measurement, TransferName
from compatbench.errors import CompatbenchError

Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# transfer, task, source, shots, seed, backbone, test set
Order = tuple[str, str, str, int, int, str, str]


class Row(Measurement):
    """One line of a results file: a measurement, and the cell that it is of.

    Attributes:
        transfer: how the module was brought to the backbone.
        source: the backbone that the module was fitted on; equal to ``backbone`` on the source.
        parameters: numbers that the fit determined.
        module_bytes: size of the module's tensors.
        key: of the cell; equal for all rows of one fit.
    """

    columns: ClassVar[tuple[str, ...]] = (
        *("method", "transfer", "task", "test_set", "source", "backbone", "shots", "seed"),
        *("status", "correct", "total", "zero_shot_correct"),
        *("negative_flips", "positive_flips", "inconsistent_errors", "ece"),
        *("parameters", "module_bytes", "reason", "key", "data"),
    )
    optional: ClassVar[frozenset[str]] = frozenset()
    order_columns: ClassVar[tuple[str, ...]] = (
        *("transfer", "task", "source", "shots", "seed", "backbone", "test_set"),
    )

    method: ConfigName
    transfer: TransferName = COPIED
    task: Name
    source: BackboneName
    shots: Shots
    seed: Seed
    parameters: Count = 0
    module_bytes: Count = 0
    key: Key
    data: Key

    @model_validator(mode="after")
    def _no_flips_on_source(self) -> Row:
        if self.backbone == self.source and self.negative_flips is not None:
            raise ValueError("a row of the source has no flips")
        return self

    @property
    def accuracy(self) -> float | None:
        """Top-1 accuracy in percent."""
        return None if self.correct is None or not self.total else 100 * self.correct / self.total

    @property
    def zero_shot(self) -> float | None:
        """Top-1 accuracy in percent of the backbone's own zero-shot classifier."""
        if self.zero_shot_correct is None or not self.total:
            return None
        return 100 * self.zero_shot_correct / self.total

    @property
    def order(self) -> Order:
        """The place of the row in its file; no two rows of a file share it."""
        fit = (self.transfer, self.task, self.source, self.shots, self.seed)
        return (*fit, self.backbone, self.test_set)


class Cost(BaseModel):
    """What a record took; one line of a cost file.

    Attributes:
        fit_seconds, evaluate_seconds: wall clock.
        peak_memory: most bytes that the cell's process held, or the tensors of a GPU; empty
            where it was not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: ClassVar[tuple[str, ...]] = (
        *("key", "backbone", "test_set", "fit_seconds", "evaluate_seconds", "peak_memory"),
    )
    # A file in which no line has a figure leaves the column out.
    optional: ClassVar[frozenset[str]] = frozenset({"peak_memory"})

    key: Key
    backbone: BackboneName
    test_set: Name
    fit_seconds: Seconds
    evaluate_seconds: Seconds
    peak_memory: Count | None = None

    @property
    def order(self) -> tuple[str, str, str]:
        """The place of the line in its file; no two lines of a file share it."""
        return (self.key, self.backbone, self.test_set)


AnyRow = TypeVar("AnyRow", Row, Cost)


def write_csv(rows: Iterable[AnyRow], model: type[AnyRow]) -> str:
    """Rows as CSV text: the same rows give the same bytes."""
    out = io.StringIO()
    lines = [row.model_dump() for row in rows]
    names = [
        name
        for name in model.columns
        if name not in model.optional or any(line[name] is not None for line in lines)
    ]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    # The csv module writes None as an empty field.
    writer.writerows([line[name] for name in names] for line in lines)
    return out.getvalue()


def read_csv(path: Path, model: type[AnyRow]) -> list[AnyRow]:
    """Reads a results file (``Row``) or a cost file (``Cost``), checking line by line.

    Raises:
        CompatbenchError: the file cannot be read, or a line breaks the schema; the message
            names the line and the field.
    """
    rows: list[AnyRow] = []
    line_number = 1
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restkey="surplus")
            named = reader.fieldnames or []
            left_out = model.optional - set(named)
            if list(named) != [name for name in model.columns if name not in left_out]:
                raise CompatbenchError(f"{path}:1: the columns must be {','.join(model.columns)}")
            for line in reader:
                line_number = reader.line_num
                values = {name: value for name, value in line.items() if value not in ("", None)}
                rows.append(model.model_validate(values))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CompatbenchError(f"cannot read {path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "row"
        raise CompatbenchError(f"{path}:{line_number}: '{field}': {first['msg']}") from None
    return rows
