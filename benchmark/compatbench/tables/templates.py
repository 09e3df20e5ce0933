"""How pages are made and written: their Jinja templates, the files beside these, and checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from compatbench.errors import CompatbenchError
from compatbench.files.atomic import holds, write_atomic


@cache
def template(name: str, autoescape: bool, **filters: Callable[..., Any]) -> Template:
    """A template, for which an undefined name is an error; a list is shown as lines."""
    environment = Environment(
        loader=FunctionLoader(read_source),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: "\n".join(value) if isinstance(value, list) else value,
    )
    environment.filters |= filters
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment.get_template(name)


def read_source(name: str) -> str:
    """A file beside the pages' code, or any other by its whole path."""
    return resources.files("compatbench.tables").joinpath(name).read_text("utf-8").strip()


def write_changed(files: Mapping[Path, bytes], command: str, check: bool) -> None:
    """Writes the files that have changed; a check raises for the first of them instead."""
    for path, content in files.items():
        if not holds(path, content):
            if check:
                raise CompatbenchError(f"{path} is not what results/ gives; run '{command}'")
            write_atomic(path, content)
