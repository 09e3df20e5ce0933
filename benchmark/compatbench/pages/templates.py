"""The Jinja templates of the pages, and the other source files beside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template


@cache
def template(name: str, autoescape: bool, **filters: Callable[..., Any]) -> Template:
    """A template, for which an undefined name is an error; a list is shown as lines."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: "\n".join(value) if isinstance(value, list) else value,
    )
    environment.filters |= filters
    return environment.from_string(read_source(name))


def read_source(name: str) -> str:
    """A file beside the pages' code."""
    file = resources.files("compatbench.pages").joinpath(name)
    return file.read_text(encoding="utf-8").strip()
