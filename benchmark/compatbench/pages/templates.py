"""The Jinja templates of the pages, and the other source files beside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template


@cache
def template(name: str, autoescape: bool, **filters: Callable[..., Any]) -> Template:
    """A template, for which an undefined name is an error; a list is shown as lines."""
    environment = Environment(
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: "\n".join(value) if isinstance(value, list) else value,
    )
    environment.filters |= filters
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment.from_string(read_source(name))


def read_source(name: str) -> str:
    """A file beside the pages' code."""
    return resources.files("compatbench.pages").joinpath(name).read_text("utf-8").strip()
