"""What copied modules lose in an upgrade, by its properties: the law of ``docs/laws.md``.

``law.json`` is written by ``benchmark/pages.py laws`` from upgrades of miniature models, and has
the properties alone that were shown to tell the loss of a lineage that was left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

FILE = Path(__file__).with_name("law.json")


class Line(BaseModel):
    """The mean loss of copied modules, in points, as a line in one property of an upgrade.

    Attributes:
        name: the property's column in ``measure_geometry``, or ``inherited``.
        error: mean absolute error, in points, of lines that have not seen the lineage.
        low: the least value that was measured; ``high`` the largest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    slope: float
    intercept: float
    error: float
    low: float
    high: float

    def tell(self, value: float) -> str:
        """What is to be expected of an upgrade with this value of the property."""
        if not self.low <= value <= self.high:
            return (
                f"{self.title}: {value:.2f} lies outside of what was measured ({self.low:.2f} to "
                f"{self.high:.2f}); cannot tell what modules lose"
            )
        loss = self.intercept + self.slope * value
        return (
            f"{self.title}: at {value:.2f} copied modules lost {loss:.1f} points of gain; the line "
            f"was off by {self.error:.1f} where it had not seen the lineage"
        )


class Law(BaseModel):
    """Lines of properties that predict loss; ``targets`` have been measured of ``wanted``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: int
    wanted: int
    lines: tuple[Line, ...]

    def tell(self, properties: Mapping[str, float]) -> list[str]:
        """What the law says of an upgrade, and what it does not, a sentence each."""
        if self.targets < self.wanted:
            return [
                f"what copied modules lose cannot be told yet: {self.targets} of {self.wanted} "
                "upgrades have been measured (docs/laws.md)"
            ]
        if not self.lines:
            return [
                "what copied modules lose cannot be told: none of these figures was shown to "
                "predict it for another lineage (docs/laws.md)"
            ]
        told = [line.tell(properties[line.name]) for line in self.lines]
        return [*told, f"these are lines of {self.targets} upgrades of miniature models"]


def read_law() -> Law:
    """The law that ships."""
    return Law.model_validate(json.loads(FILE.read_text(encoding="utf-8")))
