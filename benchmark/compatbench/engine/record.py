"""One measurement of a module: the fields and rules that stored records and result rows share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from compatbench.data.cards.schema import BackboneName, Name

Status = Literal["ok", "not transferable", "failed"]
# Numbers are kept in columns of 64-bit integers.
Count = Annotated[int, Field(ge=0, lt=2**63)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]

# How a module reaches the target backbone: untouched, or through a map found from words.
COPIED, WORDS = "copied", "words"
Transfer = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]
# What stands behind a method's name in a selection to ask for its modules through words.
SUFFIX = "+aligned"


def transfer_of(name: str) -> str:
    """The transfer that a method's name in a selection asks for."""
    return WORDS if name.endswith(SUFFIX) else COPIED


def name_of(method: str, transfer: str | None) -> str:
    """The name in a selection that asks for a method by a transfer."""
    return f"{method}{SUFFIX}" if transfer == WORDS else method


def _one_line(text: str) -> str:
    # A line of a results file is a row, for diffs and for spreadsheets.
    return text and " ".join("".join(c if c.isprintable() else " " for c in text).split())


class Measurement(BaseModel):
    """A module at one backbone on one test set.

    Attributes:
        test_set: the task itself, or a variant of it.
        data: hash of the backbone's weights and of the test set.
        correct: images classified right by the module, of ``total``.
        zero_shot_correct: the same for this backbone's own zero-shot classifier.
        negative_flips, positive_flips: images that the module classifies right on the source and
            wrong here, and the other way round; None on the source itself, and where its
            predictions were lost.
        inconsistent_errors: images that are wrong on both, with another class each time.
        ece: expected calibration error in percent.
        reason: why there is no number, if ``status`` is not ``ok``; one line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: BackboneName
    test_set: Name
    data: str
    status: Status
    correct: Count | None = None
    total: Count | None = None
    zero_shot_correct: Count | None = None
    negative_flips: Count | None = None
    positive_flips: Count | None = None
    inconsistent_errors: Count | None = None
    ece: Percent | None = None
    reason: Annotated[str, AfterValidator(_one_line)] = ""

    @model_validator(mode="after")
    def _counts_agree(self) -> Measurement:
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
        # Right on the source: those right on both, and the negative flips.
        if positive > correct or negative + other > total - correct:
            raise ValueError("more predictions have flipped than there are")
