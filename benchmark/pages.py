"""Writes the pages of docs/ that programs make; what they are made from gives the same bytes.

python benchmark/pages.py                    # every page
python benchmark/pages.py speed methods      # these
python benchmark/pages.py --check            # writes nothing; fails if a page is not up to date
python benchmark/pages.py scale --out /tmp --assume shared_rate=4e9 --assume mean_life=36000

What the figures are measured by stands at the end of each page.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
# Page -> the file that makes it. Its ``make_files`` gives contents by paths below docs/.
PAGES = {
    "api": "research/api_pages",
    "authors": "authors/authors_page",
    "indexes": "research/indexes_page",
    "intervals": "research/intervals_page",
    "laws": "research/laws_page",
    "methods": "research/methods_page",
    "predict": "research/predict_page",
    "recipes": "research/recipes_page",
    "reliability": "faults/reliability_page",
    "rosetta": "research/rosetta_page",
    "scale": "scale/scale_page",
    "speed": "speed/speed_page",
}


def make_files(name: str, **assumed: float) -> dict[Path, bytes]:
    """The files of a page by their paths below docs/."""
    folder, _, module = PAGES[name].partition("/")
    for place in (HERE, HERE / folder):
        if str(place) not in sys.path:
            sys.path.append(str(place))
    files = importlib.import_module(module).make_files(**assumed)
    return {
        Path(path): content if isinstance(content, bytes) else content.encode()
        for path, content in files.items()
    }


def fill_template(path: Path, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """A page by its Jinja template, in which ``number`` is Python's ``format``."""
    environment = Environment(
        loader=FileSystemLoader(path.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": format, **filters}
    page = environment.get_template(path.name).render(**values)
    return re.sub(r"(?<=\|)  (?=\|)", " ", page)  # an empty cell of a table


def read_page(name: str) -> str:
    """A page as it is, for those of which only sections are made."""
    return (DOCS / name).read_text(encoding="utf-8")


def main(
    names: Annotated[list[str] | None, typer.Argument(help="pages; all unless said")] = None,
    check: Annotated[bool, typer.Option(help="Write nothing; fail if one is stale.")] = False,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = DOCS,
    assume: Annotated[list[str] | None, typer.Option(help="NAME=NUMBER, of scale.")] = None,
) -> None:
    """Write pages of docs/."""
    assumed = {name: float(value) for name, value in (each.split("=") for each in assume or ())}
    stale = []
    for name in names or PAGES:
        for path, content in make_files(name, **assumed).items():
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
