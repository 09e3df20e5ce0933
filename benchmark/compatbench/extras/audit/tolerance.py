"""How far counts may be from those computed again: not at all on equal machines, else as a whole.

An audit knows its own machine; what a result file says of the machine that made it is a claim. If
it names the versions and the processor of this machine, counts must be equal. Any other claim,
whatever it says, gives one fixed tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from compatbench.engine.cell import PACKAGES, provenance
from compatbench.extras.audit.findings import Finding

# Shares of images, chosen from the same cells on two kinds of processors (docs/security.md).
EPSILON = 0.02  # of one row: a training run can amplify a rounding error
ONE_CELL = 0.012  # of the rows of one cell, on average
MEAN = 0.001  # of the rows of many cells, on average
CHANCE = 0.01  # that as many differences, or more, point one way


@dataclass(frozen=True)
class Tolerance:
    """How many images one count may be away from the same count computed here."""

    share: float
    why: str = ""
    images: int | None = None  # in place of the share, if it is given

    def of(self, total: int) -> int:
        """Images of a test set of ``total`` that a count may differ by."""
        return math.ceil(self.share * total) if self.images is None else self.images

    @property
    def exact(self) -> bool:
        return not self.share and not self.images

    @property
    def whole(self) -> bool:
        """Whether all differences are tested as a whole, too."""
        return self.images is None and self.share > 0


def deciding(made_with: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Of a provenance, what decides how numbers are rounded."""
    names = (*(name for name in PACKAGES if name != "compatbench"), "processor")
    return {name: tuple(made_with.get(name, ())) for name in names}


def choose_tolerance(made_with: Mapping[str, tuple[str, ...]], images: int | None) -> Tolerance:
    """The tolerance for results of some provenance, if the user allows no number of images."""
    if images is not None:
        return Tolerance(0.0, f"counts may differ by {images} images, as was asked", images)
    here = provenance()
    other = [name for name, made in deciding(made_with).items() if made != (here[name],)]
    if not other:
        return Tolerance(0.0, "made with the versions and processor of this machine: no tolerance")
    why = f"made with another {', '.join(other)}, by its file: counts may differ both ways, by "
    return Tolerance(EPSILON, f"{why}{MEAN:.1%} of the images on average over many cells")


def find_drift(rows: pd.DataFrame, field: str = "correct") -> Iterator[Finding]:
    """Differences that rounding cannot explain: too large on average, or too many of one sign.

    Rounding moves few counts, and as often up as down. Rows of one fit move together, so a cell
    counts once. Each method is tested, and all of them together.

    Args:
        rows: columns ``file``, ``method``, ``key``, ``images`` (how many more are stored than
            computed) and ``total``, one line per row.
        field: the column that was compared.
    """
    from scipy.stats import binomtest

    groups = [group for _, group in rows.groupby("method")]
    for group in [*groups, *([rows] if len(groups) > 1 else [])]:
        cells = pd.DataFrame(group.groupby(["method", "key"])[["images", "total"]].sum())
        shares = cells["images"].to_numpy(float) / cells["total"].to_numpy(float)
        up, down = int((shares > 0).sum()), int((shares < 0).sum())
        mean, most = float(shares.mean()), ONE_CELL / len(shares) + MEAN
        if abs(mean) > most or (up + down and binomtest(up, up + down).pvalue < CHANCE):
            yield Finding(
                str(group["file"].iloc[0]),
                f"{len(shares)} cells computed again differ by more than rounding explains",
                field=field,
                expected=f"at most {most:.2%} of the images, and as often up as down",
                found=f"{mean:+.2%}, {up} cells up and {down} down",
            )
