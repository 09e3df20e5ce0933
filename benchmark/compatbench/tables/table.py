"""One model of a table, whatever shows it: ``markdown``, ``terminal`` and ``site_data``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from compatbench.tables.numbers import NOTHING, percent

if TYPE_CHECKING:
    import pandas as pd


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
    """What a cell shows, and the value by which it is sorted: its text if it has no number."""

    spans: tuple[Span, ...]
    value: float | str | None = None

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)

    def bold(self) -> TableCell:
        """Return the cell with all of its spans in bold."""
        return replace(self, spans=tuple(span._replace(bold=True) for span in self.spans))

    def without_minor(self) -> TableCell:
        """Return the cell with its most important spans alone."""
        return replace(self, spans=tuple(span for span in self.spans if not span.minor))


def text(shown: str, paper: str = "") -> TableCell:
    """Return words from anywhere as a cell."""
    return TableCell((Span(shown, paper=paper),), shown)


def code(name: str) -> TableCell:
    """Return a name that commands know as a cell."""
    return TableCell((Span(name, "code"),), name)


def number(shown: str, value: float | str | None = None) -> TableCell:
    """Return a number as it is shown, with the value by which it is sorted."""
    return TableCell((Span(shown, "number"),), value)


def spread(mean: float | None, deviation: float | None, value: float | None = None) -> TableCell:
    """Return ``44.9 ± 0.4``, or the mean alone if there is one seed.

    Args:
        value: by what the cell is sorted; by default the mean.
    """
    shown = number(percent(mean), mean if value is None else value)
    if mean is None or deviation is None:
        return shown
    error = Span(f" ± {percent(deviation)}", "number", minor=True)
    return replace(shown, spans=(*shown.spans, error))


def sentence(*parts: str | TableCell) -> TableCell:
    """Return words that are made here, and cells, one after the other."""
    spans: list[Span] = []
    for part in parts:
        cell = part if isinstance(part, TableCell) else number(part)
        spans += cell.spans
    return TableCell(tuple(spans))


def join(cells: Iterable[TableCell], between: str = " → ") -> TableCell:
    """Return several cells as one, which is sorted by the first."""
    first, *others = cells
    parts: list[str | TableCell] = [first]
    for other in others:
        parts += [between, other]
    return replace(sentence(*parts), value=first.value)


def _mark_best(cells: Sequence[TableCell]) -> list[TableCell]:
    """Return the cells of a column, in bold those that show the highest value (one decimal)."""
    values = [cell.value for cell in cells if isinstance(cell.value, (int, float))]
    if not values:
        return list(cells)
    best = percent(max(values))
    marked = []
    for cell in cells:
        if isinstance(cell.value, (int, float)) and percent(cell.value) == best:
            cell = cell.bold()
        marked.append(cell)
    return marked


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
        """Return a value as a cell: text stays text, and what is missing is a dash."""
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
        """Return the table of these columns, in this order."""
        known = [column.key for column in self.columns]
        places = [known.index(key) for key in keys]
        columns = tuple(self.columns[place] for place in places)
        rows = tuple(tuple(row[place] for place in places) for row in self.rows)
        return replace(self, columns=columns, rows=rows)

    def without_minor(self) -> Table:
        """Return the table with the most important part of every cell alone."""
        rows = tuple(tuple(cell.without_minor() for cell in row) for row in self.rows)
        return replace(self, rows=rows)


def make_table(
    columns: Iterable[Column], records: Iterable[Mapping[str, Any]], **more: Any
) -> Table:
    """Return a table of records; what a record lacks is a dash.

    Args:
        more: fields of ``Table``.
    """
    columns = tuple(columns)
    records = list(records)
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
    """Return a table of ready texts and cells; those of the columns ``left`` are words."""
    of_words = set(left)
    columns = []
    for place, title in enumerate(header):
        columns.append(Column(title, title, left=place in of_words))
    made = []
    for row in rows:
        pairs = zip(columns, row, strict=True)
        made.append(tuple(column.cell(value) for column, value in pairs))
    head = Column("", "").cell(caption) if caption else None
    return Table(tuple(columns), tuple(made), head, tuple(notes))


def frame_table(frame: pd.DataFrame, right: Iterable[str] = ()) -> Table:
    """Return a frame as a table, aligned right where it holds numbers; what is missing is empty."""
    numbers = {*frame.select_dtypes("number").columns, *right}
    left = [place for place, name in enumerate(frame.columns) if name not in numbers]
    rows = frame.astype(object).where(frame.notna(), "").itertuples(index=False)
    return plain_table([str(name) for name in frame.columns], rows, left)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame as dictionaries; what is missing is None."""
    names = []
    columns = []
    for name, column in frame.items():
        values = column.tolist()
        if column.hasnans:
            pairs = zip(values, column.isna().tolist(), strict=True)
            values = [None if missing else value for value, missing in pairs]
        names.append(str(name))
        columns.append(values)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
