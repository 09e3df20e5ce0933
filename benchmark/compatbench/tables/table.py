"""One model of a table, whatever shows it: ``markdown``, ``terminal`` and ``site_data``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from compatbench.tables.numbers import NOTHING, percent

if TYPE_CHECKING:
    import pandas as pd

    from compatbench.results.standing import Mean


class Span(NamedTuple):
    """A piece of a cell.

    Attributes:
        style: a ``text`` comes from a card, a file or a result, and no renderer takes it for
            markup; a ``number`` is made here, and may hold ``<`` or ``=``.
        paper: to which it refers, such as ``arXiv:2109.01134``; of others there is no link.
        tone: its colour on a terminal, such as ``green``.
        minor: left out where there is little room.
    """

    text: str
    style: Literal["text", "number", "code"] = "text"
    bold: bool = False
    paper: str = ""
    tone: str = ""
    minor: bool = False


@dataclass(frozen=True)
class TableCell:
    """What a cell shows, and the value by which it is sorted; of what has none, its text."""

    spans: tuple[Span, ...]
    value: float | str | None = None

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)

    def bold(self) -> TableCell:
        return replace(self, spans=tuple(span._replace(bold=True) for span in self.spans))


def text(shown: str, paper: str = "") -> TableCell:
    """Words from anywhere."""
    return TableCell((Span(shown, paper=paper),), shown)


def code(name: str) -> TableCell:
    """A name that commands know."""
    return TableCell((Span(name, "code"),), name)


def number(shown: str, value: float | str | None = None) -> TableCell:
    """A number as it is to be shown, and by what it is sorted."""
    return TableCell((Span(shown, "number"),), value)


def spread(mean: Mean | None, value: float | None = None) -> TableCell:
    """``44.9 ± 0.4``, or the mean alone if there is one seed."""
    shown = number(percent(mean and mean.value), mean and mean.value if value is None else value)
    if mean is None or mean.std is None:
        return shown
    error = Span(f" ± {percent(mean.std)}", "number", minor=True)
    return replace(shown, spans=(*shown.spans, error))


def sentence(*parts: str | TableCell) -> TableCell:
    """Words that are made here, and cells, one after the other."""
    cells = [part if isinstance(part, TableCell) else number(part) for part in parts]
    return TableCell(tuple(span for cell in cells for span in cell.spans))


def join(cells: Iterable[TableCell], between: str = " → ") -> TableCell:
    """Several cells as one, which is sorted by the first."""
    first, *others = cells
    more = (part for cell in others for part in (between, cell))
    return replace(sentence(first, *more), value=first.value)


def _mark_best(cells: Sequence[TableCell]) -> list[TableCell]:
    """The cells of a column, in bold those that show the highest value with one decimal."""
    values = [cell.value for cell in cells if isinstance(cell.value, (int, float))]
    if not values:
        return [*cells]
    best = percent(max(values))
    return [
        cell.bold()
        if isinstance(cell.value, (int, float)) and percent(cell.value) == best
        else cell
        for cell in cells
    ]


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        key: the name of its values in the records that a table is made of.
        about: a sentence for readers who point at the title.
        show: how a number is written.
        left: aligned left, as words are.
        best: whether the highest value is in bold.
        descending: whether who sorts by it wants the highest value first.
        paper: to which the title refers.
        exact: whether the value by which it is sorted is the number that it shows.
    """

    key: str
    title: str
    about: str = ""
    show: Callable[[Any], str] = str
    left: bool = False
    best: bool = False
    descending: bool = False
    exact: bool = True
    paper: str = ""

    def cell(self, value: Any) -> TableCell:
        """A value as a cell: text stays text, and what is missing is a dash."""
        if isinstance(value, TableCell):
            return value
        if value is None:
            return number(NOTHING)
        return text(value) if isinstance(value, str) else number(self.show(value), value)


@dataclass(frozen=True)
class Table:
    """Columns and rows, with what stands above and below them.

    Attributes:
        rows: a cell for each column.
        narrow: the keys of columns in the order in which a narrow terminal leaves them out; the
            key ``±`` is for the minor spans of all.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    caption: TableCell | None = None
    notes: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rows)

    def select(self, keys: Iterable[str]) -> Table:
        """The table of these columns, in this order."""
        known = [column.key for column in self.columns]
        places = [known.index(key) for key in keys]
        rows = tuple(tuple(row[i] for i in places) for row in self.rows)
        return replace(self, columns=tuple(self.columns[i] for i in places), rows=rows)

    def without_minor(self) -> Table:
        """The table with the most important part of every cell alone."""
        rows = tuple(
            tuple(replace(cell, spans=tuple(s for s in cell.spans if not s.minor)) for cell in row)
            for row in self.rows
        )
        return replace(self, rows=rows)


def make_table(
    columns: Iterable[Column], records: Iterable[Mapping[str, Any]], **more: Any
) -> Table:
    """A table of records; what a record lacks is a dash, and ``more`` are fields of ``Table``."""
    columns, records = tuple(columns), list(records)
    by_column = []
    for column in columns:
        cells = [column.cell(record.get(column.key)) for record in records]
        by_column.append(_mark_best(cells) if column.best else cells)
    return Table(columns, tuple(zip(*by_column, strict=True)), **more)


def plain_table(
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    left: Iterable[int] = (0,),
    caption: TableCell | str = "",
    notes: Sequence[str] = (),
) -> Table:
    """A table of ready texts and cells; those of the columns ``left`` are words."""
    columns = [Column(title, title, left=i in {*left}) for i, title in enumerate(header)]
    made = tuple(
        tuple(column.cell(value) for column, value in zip(columns, row, strict=True))
        for row in rows
    )
    head = Column("", "").cell(caption) if caption else None
    return Table(tuple(columns), made, head, tuple(notes))


def frame_table(frame: pd.DataFrame, right: Iterable[str] = ()) -> Table:
    """A frame as a table, aligned right where it holds numbers; what is missing is empty."""
    numbers = {*frame.select_dtypes("number").columns, *right}
    left = [i for i, name in enumerate(frame.columns) if name not in numbers]
    rows = frame.astype(object).where(frame.notna(), "").itertuples(index=False)
    return plain_table([*map(str, frame.columns)], rows, left)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as dictionaries; what is missing is None."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]
