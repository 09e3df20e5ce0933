"""How far a number may be from the same number computed again.

On the machine that made it, not at all: the same inputs give the same bytes. Another
processor or another version of torch rounds otherwise, and a training run amplifies that;
there a count may differ by ``EPSILON`` of the test images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from compatbench.engine.cell import PACKAGES, provenance

# docs/security.md says what this was chosen from.
EPSILON = 0.02


@dataclass(frozen=True)
class Tolerance:
    """What may differ between a stored number and the same number computed here.

    Attributes:
        share: of the test images whose predictions may differ.
        why: one line for the report.
        images: in place of the share, if it is given.
    """

    share: float
    why: str = ""
    images: int | None = None

    def of(self, total: int) -> int:
        """Images of a test set of ``total`` that a count may differ by."""
        return math.ceil(self.share * total) if self.images is None else self.images

    @property
    def exact(self) -> bool:
        return not self.share and not self.images


def choose_tolerance(made_with: Mapping[str, tuple[str, ...]], images: int | None) -> Tolerance:
    """The tolerance for results of some provenance.

    Args:
        images: what the user allows, if anything.
    """
    if images is not None:
        return Tolerance(0.0, f"counts may differ by {images} images, as was asked", images)
    here = provenance()
    names = (*(name for name in PACKAGES if name != "compatbench"), "processor")
    other = [name for name in names if made_with.get(name, ()) != (here[name],)]
    if not other:
        return Tolerance(0.0, "made with the versions and processor of this machine: no tolerance")
    why = f"made with another {', '.join(other)}: counts may differ by {EPSILON:.0%} of the images"
    return Tolerance(EPSILON, why)
