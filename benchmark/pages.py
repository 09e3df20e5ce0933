"""Writes the pages of docs/ that programs make; what they are made from gives the same bytes.

python benchmark/pages.py                    # every page
python benchmark/pages.py speed methods      # these
python benchmark/pages.py --check            # writes nothing; fails if a page is not up to date

What the figures are measured by stands at the end of each page.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from compatbench.results.estimate import Interval, interval_columns
from compatbench.tables.markdown import fill_section, render_table
from compatbench.tables.numbers import with_interval
from compatbench.tables.table import Table
from compatbench.tables.templates import render_markdown

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
# Page -> the file that makes it, ``<name>_page.py``. Its ``make_page`` gives a ``Page``.
PAGES = {path.stem.removesuffix("_page"): path for path in sorted(HERE.glob("*/*_page.py"))}


@dataclass(frozen=True)
class Page:
    """What a page is made of; paths are below docs/.

    Attributes:
        values: of its template ``<name>.md.jinja``, which is beside the file that makes it; of a
            page without one, its sections by name, and the rest is written by hand.
        files: contents of further files.
        filters: of the template, beside those of all pages.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    filters: Mapping[str, Callable[..., str]] = field(default_factory=dict)


def make_files(name: str) -> dict[Path, bytes]:
    """The files of a page by their paths below docs/."""
    made = PAGES[name].with_name(name)
    for place in (HERE, made.parent):
        if str(place) not in sys.path:
            sys.path.append(str(place))
    page = importlib.import_module(PAGES[name].stem).make_page()
    texts = dict(page.files)
    if page.values:
        texts[f"{name}.md"] = _write_page(made, page)
    return {Path(path): text.encode() for path, text in texts.items()}


def _write_page(made: Path, page: Page) -> str:
    template = made.with_suffix(".md.jinja")
    if template.is_file():
        return render_markdown(str(template), page.filters, **page.values) + "\n"
    text = (DOCS / f"{made.name}.md").read_text(encoding="utf-8")
    for section, content in page.values.items():
        shown = render_table(content) if isinstance(content, Table) else content
        text = fill_section(text, section, shown)
    return text


def show_interval(interval: Interval) -> str:
    """``+1.2 (-0.3 to +2.5)``."""
    return with_interval(interval_columns("x", interval), "x", "{:+.1f}".format)


def main(
    names: Annotated[list[str] | None, typer.Argument(help="pages; all unless said")] = None,
    check: Annotated[bool, typer.Option(help="Write nothing; fail if one is stale.")] = False,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = DOCS,
) -> None:
    """Write pages of docs/."""
    stale = []
    for name in names or PAGES:
        for path, content in make_files(name).items():
            place = (out / path).resolve()
            if place.exists() and place.read_bytes() == content:
                continue
            stale.append(f"{place} is not up to date; run 'python benchmark/pages.py {name}'")
            if not check:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
                print(f"wrote {place}")
    if check and stale:
        sys.exit("\n".join(stale))


if __name__ == "__main__":
    typer.run(main)
