"""Render Jinja templates of pages and figures, and write the files that have changed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from compatbench.data.cards.shots import count_shots, show_shots
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import holds, write_atomic
from compatbench.messages import conjugate, count, lower_first
from compatbench.tables import markdown
from compatbench.tables.numbers import percent
from compatbench.tables.table import Table, TableCell

# Text goes into Markdown through "md" or "code" only.
_FILTERS: dict[str, Callable[..., Any]] = {
    "md": markdown.escape,
    "number": format,
    "code": markdown.code,
    "backbone": lambda name, page: page.backbone_title(name),
    "count": lambda items, noun: count(len(items), noun),
    "shots": lambda count: str(show_shots(count)),
    "count_shots": count_shots,
    "conjugate": conjugate,
    "lower_first": lower_first,
    "slug": markdown.slug,
    "percent": percent,
    "setting": lambda value: markdown.escape(show_setting(value)),
}


def show_setting(setting: Any) -> str:
    """Return a method's setting as it is written in a card."""
    if setting is None:
        return "none"
    if isinstance(setting, str):
        return setting
    return json.dumps(setting, ensure_ascii=False)


def render_markdown(
    name: str, filters: Mapping[str, Callable[..., str]] = {}, **context: Any
) -> str:
    """Render a template as Markdown, without superfluous empty lines.

    Args:
        filters: more filters of Jinja, by name.
    """
    all_filters = {**_FILTERS, **filters}
    page = template(name, autoescape=False, **all_filters)
    rendered = page.render(**context)
    rendered = re.sub(r"(?<=\|)  (?=\|)", " ", rendered)  # an empty cell of a table
    return re.sub(r"\n{3,}", "\n\n", rendered).strip()


@cache
def template(name: str, autoescape: bool, **filters: Callable[..., Any]) -> Template:
    """Return a template. An undefined name in it is an error."""
    environment = Environment(
        loader=FunctionLoader(read_source),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= filters
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment.get_template(name)


def _finalize(shown: Any) -> Any:
    """Return tables and cells as Markdown; leave other values to Jinja."""
    if isinstance(shown, TableCell):
        return markdown.render_cell(shown)
    if isinstance(shown, Table):
        return markdown.render_table(shown)
    return shown


def read_source(name: str) -> str:
    """Read a file from the folder of the figures if it is YAML, and else from that of the pages.

    An absolute path reads that file.
    """
    folder = "figures" if ".yaml" in name else "pages"
    path = resources.files(f"compatbench.tables.{folder}").joinpath(name)
    return path.read_text("utf-8").strip()


def write_changed(files: Mapping[Path, bytes], check: bool) -> None:
    """Write the files that have changed; with ``check``, raise an error for the first of them."""
    for path, content in files.items():
        if holds(path, content):
            continue
        if check:
            raise CompatbenchError(f"{path} is not what results/ gives; run 'compatbench report'")
        write_atomic(path, content)
