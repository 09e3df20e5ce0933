"""Write the pages of docs/ that programs make. The same input gives the same bytes.

python benchmark/pages.py                    # every page
python benchmark/pages.py speed methods      # these
python benchmark/pages.py --check            # writes nothing; fails if a page is not up to date

The end of each page says how its numbers are measured.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from compatbench.tables.markdown import fill_section, render_table
from compatbench.tables.table import Table
from compatbench.tables.templates import render_markdown

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
# The programs by the names of their pages. ``<name>_page.py`` has ``make_page``, which returns a
# ``Page``.
PAGES = {path.stem.removesuffix("_page"): path for path in sorted(HERE.glob("*/*_page.py"))}


@dataclass(frozen=True)
class Page:
    """The content of a page. Paths are relative to docs/.

    Attributes:
        values: the values for the template ``<name>.md.jinja`` beside the program. A page without
            a template is written by hand, except for sections: then these are the sections, by
            name.
        files: the contents of further files, by path.
        filters: the template's own filters, besides those of all pages.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    filters: Mapping[str, Callable[..., str]] = field(default_factory=dict)


def make_files(name: str) -> dict[Path, bytes]:
    """Return the files of a page, by their paths below docs/."""
    program = PAGES[name]
    # The programs of a folder import each other, and this file, by their names.
    for place in (HERE, program.parent):
        if str(place) not in sys.path:
            sys.path.append(str(place))
    page = importlib.import_module(program.stem).make_page()
    texts = dict(page.files)
    if page.values:
        texts[f"{name}.md"] = _write_page(name, page)
    return {Path(path): text.encode() for path, text in texts.items()}


def _write_page(name: str, page: Page) -> str:
    """Return the text of a page: its filled template, or the page with new sections."""
    template = PAGES[name].with_name(f"{name}.md.jinja")
    if template.is_file():
        return render_markdown(str(template), page.filters, **page.values) + "\n"
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for section, content in page.values.items():
        if isinstance(content, Table):
            content = render_table(content)
        text = fill_section(text, section, content)
    return text


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Pages; by default all.")] = None,
    check: Annotated[bool, typer.Option(help="Write nothing; fail if a page is stale.")] = False,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = DOCS,
) -> None:
    """Write pages of docs/."""
    stale = []
    for name in names or PAGES:
        for path, content in make_files(name).items():
            place = (out / path).resolve()
            if place.exists() and place.read_bytes() == content:
                continue
            if check:
                stale.append(f"{place} is not up to date; run 'python benchmark/pages.py {name}'")
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            print(f"wrote {place}")
    if stale:
        sys.exit("\n".join(stale))


if __name__ == "__main__":
    typer.run(main)
