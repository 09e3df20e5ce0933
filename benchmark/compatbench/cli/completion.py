"""Names on the command line: completed, hinted at, and checked before PyTorch is loaded."""

from collections.abc import Iterable
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
ENDINGS = {"suites": (".yaml", ".yml"), "methods": (".py",)}


def known_names(kind: str) -> list[str]:
    """Return the names of a kind, without loading what they name."""
    from compatbench.data.cards import backbone_cards, suite_cards, task_cards

    if kind == "suites":
        return suite_cards.names()
    if kind == "tasks":
        return ["all", *task_cards.names()]
    if kind == "backbones":
        return [*backbone_cards.names(), "local-dir:", "hf:"]
    if kind == "methods":
        return ["all", *content_names("methods")]
    return content_names(kind)


def content_names(folder: str) -> list[str]:
    """Return the names of the project's methods or transfers, as their files are called.

    Names of transfers are written with hyphens, which the name of a Python file cannot have.
    """
    from compatbench.files.project_folders import content_files

    names = [path.stem for path in content_files(folder)]
    if folder == "transfers":
        names = [name.replace("_", "-") for name in names]
    return sorted(names)


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
    return [] if kind == "modules" else _complete(kind, incomplete)


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
        rest = super().parse_args(ctx, args)
        if ctx.resilient_parsing:  # the shell completes a name
            return rest
        if ctx.args:
            word = ctx.args[0]
            hint = self._hint(word) or f"see '{ctx.command_path} --help'"
            raise CompatbenchError(f"{self.name}: no argument '{word}'; {hint}")
        for parameter in self.params:
            value = ctx.params.get(parameter.name or "")
            is_file = parameter.param_type_name == "argument" and isinstance(value, Path)
            if is_file and not value.exists():
                hint = self._hint(str(value))
                if hint:
                    raise CompatbenchError(f"{self.name}: no file '{value}'; {hint}")
        return rest

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


def check_names(
    suite: str | None = None,
    *,
    methods: str | None = None,
    tasks: str | None = None,
    transfers: str | None = None,
) -> None:
    """Raise an error for a misspelt name at once; to load PyTorch would take seconds.

    This finds plain names that nothing can have. Globs, files, and the names of installed packages
    and of suites with method files are left to the function that the command calls.
    """
    from compatbench.data.cards import suite_cards, task_cards, unknown_name

    card = None
    if suite is not None:
        card = suite_cards.read(suite)
    for name in _plain_names(tasks):
        known = task_cards.names()
        if name not in known and name.rpartition(".")[0] not in known:
            kind = "task"
            if card is not None:
                from compatbench.data.cards import suite_variants

                known = []
                for task, variants in suite_variants(card).items():
                    known += [task, *variants]
                kind = "task in this suite"
            raise CompatbenchError(unknown_name(name, known, kind))
    has_method_files = card is not None and bool(card.plugins)
    if not has_method_files and not _has_packages("methods"):
        known = content_names("methods")
        if card is not None:
            known += card.configs
        known.sort()
        for name in _plain_names(methods):
            if name not in known:
                raise CompatbenchError(unknown_name(name, known, "method"))
    if not _has_packages("transfers"):
        known = content_names("transfers")
        for label in _plain_names(transfers):
            name = label.partition("+")[0]
            if name not in known:
                raise CompatbenchError(unknown_name(name, known, "transfer"))


def _plain_names(listed: str | None) -> Iterable[str]:
    """Yield the names of a comma list; nothing if it names a file, which may define any name."""
    parts = [part.strip().removeprefix("!") for part in (listed or "").split(",")]
    if any(".py" in part or "/" in part for part in parts):
        return
    for part in parts:
        is_pattern = part == "all" or any(character in part for character in "*?[")
        if part and not is_pattern and not part.endswith((".yaml", ".yml")):
            yield part


def _has_packages(folder: str) -> bool:
    """Return True if installed packages offer content of a kind."""
    from importlib.metadata import entry_points

    return bool(entry_points(group=f"compatbench.{folder}"))
