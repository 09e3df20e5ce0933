"""What a study gives: frames of figures, and the same as tables and as a drawing."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from compatbench.pages import markdown
from compatbench.pages.figures.svg import save_svg, svg_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]  # of a frame; what is missing is None


@dataclass(frozen=True)
class TextTable:
    """A table with a line above it and notes below; cells are plain text.

    Attributes:
        head: Markdown that has no markup but code.
        left: columns of text; all others hold numbers and are aligned right.
        markup: column -> how its cells are written in Markdown; the others are escaped.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    head: str = ""
    notes: Sequence[str] = ()
    left: Sequence[int] = (0,)
    markup: Mapping[int, Callable[[str], str]] = field(default_factory=dict)

    def markdown(self) -> str:
        """The table as a part of a page."""
        rows = [
            [self.markup.get(i, _escape)(cell) for i, cell in enumerate(row)] for row in self.rows
        ]
        lines = [self.head, ""] if self.head else []
        lines += markdown.table(self.header, rows, self.left)
        if self.notes:
            lines += ["", *[f"* {_escape(note)}" for note in self.notes]]
        return "\n".join(lines)


class StudyReport(ABC):
    """Base class of what the studies give."""

    @property
    def rows(self) -> pd.DataFrame:
        """The main figures: the first frame of the report."""
        return next(value for value in vars(self).values() if isinstance(value, pd.DataFrame))

    @abstractmethod
    def tables(self) -> list[TextTable]:
        """What readers see."""

    def markdown(self) -> str:
        """The tables as a part of a page."""
        return "\n\n".join(table.markdown() for table in self.tables())

    def draw(self) -> Figure | None:
        """The figure, inside ``svg_style``; None if there is nothing to draw."""
        return None

    def save_figure(self, path: Path) -> bool:
        """Writes the figure as SVG; False if there is none."""
        with svg_style():
            if figure := self.draw():
                save_svg(figure, path)
        return figure is not None


def _escape(text: str) -> str:
    return markdown.escape(text, longest=400)


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame as dictionaries; what is missing is None."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def to_json(data: Any) -> str:
    """Frames and reports, and what holds them, as JSON."""

    def plain(value: Any) -> Any:
        return records(value) if isinstance(value, pd.DataFrame) else asdict(value)

    return json.dumps(data, indent=1, ensure_ascii=False, default=plain)
