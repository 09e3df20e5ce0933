"""Complete names on the command line, and hint at the option that takes a word."""

import re
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from compatbench.errors import CompatbenchError

# The options that take names, with the kind of the names.
OPTIONS = {
    "--suite": "suites",
    "--methods": "methods",
    "--task": "tasks",
    "--tasks": "tasks",
    "--target": "backbones",
    "--backbones": "backbones",
    "--source": "backbones",
    "--transfer": "transfers",
    "--transfers": "transfers",
}
# How typer reports a word that is not one of a few.
_NOT_A_CHOICE = re.compile("'([^']*)' is not one of (.*)")
ENDINGS = {"suites": (".yaml", ".yml"), "methods": (".py",)}


def known_names(kind: str) -> list[str]:
    """Return the names of a kind, without loading what they name."""
    from compatbench.data.cards import backbone_cards, suite_cards, task_cards
    from compatbench.files.project_folders import content_names

    if kind == "suites":
        return suite_cards.names()
    if kind == "tasks":
        return ["all", *task_cards.names()]
    if kind == "backbones":
        return [*backbone_cards.names(), "local-dir:", "hf:"]
    if kind == "methods":
        return ["all", *content_names("methods")]
    return content_names(kind)


def _complete(kind: str, incomplete: str) -> list[str]:
    return [name for name in known_names(kind) if name.startswith(incomplete)]


def complete_suites(incomplete: str) -> list[str]:
    """Complete the name of a suite."""
    return _complete("suites", incomplete)


def complete_tasks(incomplete: str) -> list[str]:
    """Complete the name of a task."""
    return _complete("tasks", incomplete)


def complete_methods(incomplete: str) -> list[str]:
    """Complete the name of a method."""
    return _complete("methods", incomplete)


def complete_backbones(incomplete: str) -> list[str]:
    """Complete the name of a backbone."""
    return _complete("backbones", incomplete)


def complete_transfers(incomplete: str) -> list[str]:
    """Complete the name of a transfer."""
    return _complete("transfers", incomplete)


def complete_listed(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a name of the kind that ``list`` is given."""
    kind = context.params.get("kind") or "methods"
    if kind == "modules":
        return []
    return _complete(kind, incomplete)


class HintingCommand(TyperCommand):
    """A command that names the missing option for a word such as ``smoke`` in ``run smoke``.

    Its help is a docstring, of which a terminal wraps each paragraph anew.
    """

    def __init__(self, *args: Any, help: str | None = None, **settings: Any) -> None:
        paragraphs = []
        for paragraph in cleandoc(help or "").split("\n\n"):
            paragraphs.append(" ".join(paragraph.split()))
        super().__init__(*args, help="\n\n".join(paragraphs), **settings)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words; raise an error with a hint for a word or a file that does not fit."""
        ctx.allow_extra_args = True  # which are explained here
        try:
            rest = super().parse_args(ctx, args)
        except typer.BadParameter as error:
            message = _explain_choice(error)
            if message:
                raise CompatbenchError(f"{self.name}: {message}") from None
            raise
        if ctx.resilient_parsing:  # the shell completes a name
            return rest
        if ctx.args:
            word = ctx.args[0]
            if "module" in ctx.params and Path(word).exists():
                raise CompatbenchError(
                    f"{self.name} takes one module, and '{word}' is a second one; run the command "
                    "once for each"
                )
            hint = self._hint(word) or f"see '{ctx.command_path} --help'"
            raise CompatbenchError(f"{self.name}: no argument '{word}'; {hint}")
        for parameter in self.params:
            value = ctx.params.get(parameter.name or "")
            if parameter.param_type_name != "argument" or self._takes_tasks(ctx):
                continue
            for file in value if isinstance(value, list) else [value]:
                hint = ""
                if isinstance(file, Path) and not file.exists():
                    hint = self._hint(str(file))
                if hint:
                    raise CompatbenchError(f"{self.name}: no file '{file}'; {hint}")
        return rest

    def _takes_tasks(self, ctx: Any) -> bool:
        """Return True if images are asked about, whose place may be the name of a task."""
        asked = [ctx.params.get(name) for name in ("module", "source")]
        return self.name == "advise" and any(asked)

    def _hint(self, word: str) -> str:
        """Return the option that takes a word: ``for a suite write --suite smoke``."""
        first = word.split(",")[0]
        for parameter in self.params:
            for option in parameter.opts:
                kind = OPTIONS.get(option)
                if kind is None:
                    continue
                if first.endswith(ENDINGS.get(kind, ())) or first in known_names(kind):
                    return f"for a {kind[:-1]} write {option} {word}"
        return ""


def _explain_choice(error: typer.BadParameter) -> str:
    """Return the message for a word that is not one of a few; empty for another mistake."""
    from compatbench.data.cards.names import unknown_name

    found = _NOT_A_CHOICE.search(error.message)
    if found is None or error.param is None:
        return ""
    kind = error.param.opts[0].lstrip("-")
    return unknown_name(found[1], re.findall("'([^']*)'", found[2]), kind)
