"""Result rows: what ``results/<suite>/<method>.csv`` holds, read and written exactly.

A row is one record: a fitted module at one backbone on one test set. Counts are
kept, not percentages, so nothing is rounded. Times, which no two runs share, stand
in ``<method>.cost.csv`` under the same keys.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from compatbench.data.cards import BackboneName, ConfigName, Name
from compatbench.data.shots import Shots
from compatbench.errors import CompatbenchError

Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# task, source, shots, seed, backbone, test set
Order = tuple[str, str, int, int, str, str]


class Row(BaseModel):
    """One line of a results file.

    Attributes:
        key: of the cell; equal for all rows of one fit.
        backbone: where the module was measured; equal to ``source`` on the source.
        test_set: the task itself, or a variant of it.
        correct, total: images classified right by the module, of how many.
        zero_shot_correct: the same for this backbone's own zero-shot classifier.
        negative_flips, positive_flips: images that the module has right on the source and wrong
            here, and the other way round; empty on the source, or if its answers were lost.
        inconsistent_errors: images it has wrong on both, with another class each time.
        ece: expected calibration error in percent.
        parameters: numbers that the fit determined.
        module_bytes: size of the module's tensors.
        reason: why there is no number; one line, whatever was given.
        data: hash of the backbone's weights and of the test set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    optional: ClassVar[frozenset[str]] = frozenset()

    method: ConfigName
    task: Name
    test_set: Name
    source: BackboneName
    backbone: BackboneName
    shots: Shots
    seed: int
    status: Literal["ok", "not transferable", "failed"]
    correct: Count | None = None
    total: Count | None = None
    zero_shot_correct: Count | None = None
    negative_flips: Count | None = None
    positive_flips: Count | None = None
    inconsistent_errors: Count | None = None
    ece: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    parameters: Count = 0
    module_bytes: Count = 0
    reason: str = ""
    key: Key
    data: Key

    @field_validator("reason")
    @classmethod
    def _one_line(cls, reason: str) -> str:
        # A line of the file is a row, for diffs and for spreadsheets.
        return reason and " ".join("".join(c if c.isprintable() else " " for c in reason).split())

    @model_validator(mode="after")
    def _counts_agree(self) -> Row:
        counts = (self.correct, self.total, self.zero_shot_correct)
        flips = (self.negative_flips, self.positive_flips, self.inconsistent_errors)
        if self.status != "ok":
            if any(figure is not None for figure in (*counts, *flips, self.ece)):
                raise ValueError("a row that is not ok has no counts")
        elif self.correct is None or self.total is None or self.zero_shot_correct is None:
            raise ValueError("a row that is ok has correct, total and zero_shot_correct")
        elif not max(self.correct, self.zero_shot_correct) <= self.total or self.total == 0:
            raise ValueError("more images are right than there are")
        else:
            self._check_flips(self.correct, self.total)
        return self

    def _check_flips(self, correct: int, total: int) -> None:
        negative, positive = self.negative_flips, self.positive_flips
        other = self.inconsistent_errors
        if negative is None and positive is None and other is None:
            return
        if negative is None or positive is None or other is None:
            raise ValueError("flips are all given, or none is")
        if self.backbone == self.source:
            raise ValueError("a row of the source has no flips")
        # Right on the source: those right on both, and the negative flips.
        if positive > correct or negative + other > total - correct:
            raise ValueError("more answers have flipped than there are")

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
        """Where the row stands in its file; no two rows of a file share it."""
        return (self.task, self.source, self.shots, self.seed, self.backbone, self.test_set)


class Cost(BaseModel):
    """What a record took; one line of a cost file.

    Attributes:
        fit_seconds, evaluate_seconds: wall clock.
        peak_memory: most bytes that the cell's process held, or the tensors of a GPU; empty
            where it was not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        """Where the line stands in its file; no two lines of a file share it."""
        return (self.key, self.backbone, self.test_set)


AnyRow = TypeVar("AnyRow", Row, Cost)


def write_csv(rows: Iterable[AnyRow], model: type[AnyRow]) -> str:
    """Rows as CSV text: the same rows give the same bytes."""
    out = io.StringIO()
    lines = [row.model_dump() for row in rows]
    names = [
        name
        for name in model.model_fields
        if name not in model.optional or any(line[name] is not None for line in lines)
    ]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    # The csv module writes None as an empty field.
    writer.writerows([line[name] for name in names] for line in lines)
    return out.getvalue()


def read_csv(path: Path, model: type[AnyRow]) -> list[AnyRow]:
    """Reads a results file (``Row``) or a cost file (``Cost``).

    Raises:
        CompatbenchError: the file cannot be read, or a line breaks the schema.
    """
    rows: list[AnyRow] = []
    line_number = 1
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restkey="surplus")
            named = reader.fieldnames or []
            left_out = model.optional - set(named)
            if list(named) != [name for name in model.model_fields if name not in left_out]:
                raise CompatbenchError(
                    f"{path}:1: the columns must be {','.join(model.model_fields)}"
                )
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
