"""The model of a table that all renderers share: ``markdown``, ``terminal`` and ``site_data``."""

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
        style: a ``text`` comes from a card, a file or a result, and is escaped, so that it is never
            taken for markup. A ``number`` is written by this program, and may contain ``<`` or
            ``=``.
        paper: the paper that it refers to, such as ``arXiv:2109.01134``. Only arXiv papers are
            linked.
        tone: its colour on a terminal, such as ``green``.
        minor: True if it is left out where there is little room.
    """

    text: str
    style: Literal["text", "number", "code"] = "text"
    bold: bool = False
    paper: str = ""
    tone: str = ""
    minor: bool = False


@dataclass(frozen=True)
class TableCell:
    """The contents of a cell. It is sorted by its value, or by its text if it has none."""

    spans: tuple[Span, ...]
    value: float | str | None = None

    @property
    def text(self) -> str:
        """Return the text of all spans."""
        return "".join(span.text for span in self.spans)

    def bold(self) -> TableCell:
        """Return the cell with all of its spans in bold."""
        spans = [span._replace(bold=True) for span in self.spans]
        return replace(self, spans=tuple(spans))

    def without_minor(self) -> TableCell:
        """Return the cell without its minor spans."""
        spans = [span for span in self.spans if not span.minor]
        return replace(self, spans=tuple(spans))


def text(shown: str, paper: str = "") -> TableCell:
    """Return words as a cell; they may come from anywhere, and are escaped."""
    return TableCell((Span(shown, paper=paper),), shown)


def code(name: str) -> TableCell:
    """Return a name that commands know as a cell in code type."""
    return TableCell((Span(name, "code"),), name)


def number(shown: str, value: float | str | None = None) -> TableCell:
    """Return a number as it is shown, with the value by which it is sorted."""
    return TableCell((Span(shown, "number"),), value)


def spread(mean: float | None, deviation: float | None, value: float | None = None) -> TableCell:
    """Return ``44.9 ± 0.4``, or the mean alone if there is one seed.

    Args:
        value: the value by which the cell is sorted; by default the mean.
    """
    if value is None:
        value = mean
    shown = number(percent(mean), value)
    if mean is None or deviation is None:
        return shown
    error = Span(f" ± {percent(deviation)}", "number", minor=True)
    return replace(shown, spans=(*shown.spans, error))


def sentence(*parts: str | TableCell) -> TableCell:
    """Return a cell of words written by this program and of other cells, one after the other."""
    spans: list[Span] = []
    for part in parts:
        if isinstance(part, TableCell):
            spans += part.spans
        else:
            spans.append(Span(part, "number"))
    return TableCell(tuple(spans))


def join(cells: Iterable[TableCell], between: str = " → ") -> TableCell:
    """Return several cells as one that is sorted by the first."""
    first, *others = cells
    parts: list[str | TableCell] = [first]
    for other in others:
        parts += [between, other]
    return replace(sentence(*parts), value=first.value)


def _mark_best(cells: Sequence[TableCell]) -> list[TableCell]:
    """Return the cells of a column; those that show the highest value (one decimal) are bold."""
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
        key: the name of its values in the records of a table.
        about: a sentence for readers who point at the title.
        show: the function that writes a number.
        left: True if it is aligned left, as words are.
        best: True if the highest value is in bold.
        descending: True if sorting by it puts the highest value first.
        paper: the paper that the title refers to.
        exact: True if the number that a cell shows is the value by which it is sorted.
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
        """Return a value as a cell: text stays text, and a missing value is a dash."""
        if isinstance(value, TableCell):
            return value
        if value is None:
            return number(NOTHING)
        if isinstance(value, str):
            return text(value)
        return number(self.show(value), value)


@dataclass(frozen=True)
class Table:
    """Columns and rows, with a caption above and notes below.

    Attributes:
        rows: a cell for each column.
        narrow: the keys of columns in the order in which a narrow terminal leaves them out. The
            key ``±`` stands for the minor spans of all columns.
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
        rows = []
        for row in self.rows:
            rows.append(tuple(row[place] for place in places))
        return replace(self, columns=columns, rows=tuple(rows))

    def without_minor(self) -> Table:
        """Return the table without the minor spans of its cells."""
        rows = []
        for row in self.rows:
            rows.append(tuple(cell.without_minor() for cell in row))
        return replace(self, rows=tuple(rows))


def make_table(
    columns: Iterable[Column], records: Iterable[Mapping[str, Any]], **more: Any
) -> Table:
    """Return a table of records; a value that a record lacks is a dash.

    Args:
        more: fields of ``Table``.
    """
    columns = tuple(columns)
    records = list(records)
    by_column = []
    for column in columns:
        cells = [column.cell(record.get(column.key)) for record in records]
        if column.best:
            cells = _mark_best(cells)
        by_column.append(cells)
    return Table(columns, tuple(zip(*by_column, strict=True)), **more)


def plain_table(
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    left: Iterable[int] = (0,),
    caption: TableCell | str = "",
    notes: Sequence[str] = (),
) -> Table:
    """Return a table of texts and cells.

    Args:
        left: the numbers of the columns that are aligned left, from 0.
    """
    word_columns = set(left)
    columns = []
    for place, title in enumerate(header):
        columns.append(Column(title, title, left=place in word_columns))
    cells = []
    for row in rows:
        pairs = zip(columns, row, strict=True)
        cells.append(tuple(column.cell(value) for column, value in pairs))
    caption_cell = None
    if caption:
        caption_cell = Column("", "").cell(caption)
    return Table(tuple(columns), tuple(cells), caption_cell, tuple(notes))


def frame_table(frame: pd.DataFrame, right: Iterable[str] = ()) -> Table:
    """Return a frame as a table; its numbers and the columns ``right`` are aligned right.

    Missing values give empty cells.
    """
    numbers = {*frame.select_dtypes("number").columns, *right}
    left = [place for place, name in enumerate(frame.columns) if name not in numbers]
    rows = frame.astype(object).where(frame.notna(), "").itertuples(index=False)
    return plain_table([str(name) for name in frame.columns], rows, left)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame as dictionaries; missing values are None."""
    names = [str(name) for name in frame.columns]
    values = frame.to_numpy(dtype=object, copy=True)
    values[frame.isna().to_numpy()] = None
    return [dict(zip(names, row, strict=True)) for row in values.tolist()]
