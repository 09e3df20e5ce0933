"""Commands that explain a word which needs an option before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from compatbench.cli.options import known_names
from compatbench.errors import CompatbenchError

ENDINGS = {"suites": (".yaml", ".yml"), "methods": (".py",)}


class ShellCommand(TyperCommand):
    """A command that names the option for a word which is no argument.

    Attributes:
        naming: options by the kind of names that they take, such as ``suites``.
    """

    def __init__(self, *args: Any, naming: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.naming = naming

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True  # which are explained here
        rest = super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            hint = self._hint(ctx.args[0]) or f"see '{ctx.command_path} --help'"
            raise CompatbenchError(f"{self.name}: no argument '{ctx.args[0]}'; {hint}")
        for value in self._paths(ctx.params):
            if not value.exists() and (hint := self._hint(str(value))):
                raise CompatbenchError(f"{self.name}: no file '{value}'; {hint}")
        return rest

    def _paths(self, values: Mapping[str, Any]) -> Iterator[Path]:
        """The files that are given as arguments."""
        for parameter in self.params:
            value = values.get(parameter.name or "")
            if parameter.param_type_name == "argument" and isinstance(value, Path):
                yield value

    def _hint(self, word: str) -> str:
        """The option that takes a word: ``for a suite write --suite smoke``."""
        first = word.split(",")[0]
        for kind, option in self.naming.items():
            if first.endswith(ENDINGS.get(kind, ())) or first in known_names(kind):
                return f"for a {kind[:-1]} write {option} {word}"
        return ""
