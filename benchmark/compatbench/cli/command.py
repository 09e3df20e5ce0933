"""Commands from functions: a signature gives the options, a docstring the help."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer
from rich.markup import escape

from compatbench.cli.arguments import ShellCommand
from compatbench.cli.options import CARD_NAMES, SHARED, complete, split
from compatbench.cli.output import console, print_json, say, show
from compatbench.cli.signature import COMPUTED, read_signature
from compatbench.plugins import REQUIRED, Command, Option, load

# Parameters that are called with lines: the first replaces the last line, the second stays.
_REPORTS = ("progress", "tell")
_KINDS = {"bool": bool, "str": str, "int": int, "float": float, "Path": Path, "Literal": Literal}
_KINDS |= {"tuple": tuple}


@dataclass
class Call:
    """A command as it was given; calling it calls its function.

    Attributes:
        function: name or place.
        arguments: of the function.
        shell: the values of options that the function does not have.
        reports: its parameters that are called with lines.
    """

    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    shell: dict[str, Any] = field(default_factory=dict)
    reports: frozenset[str] = frozenset()

    def __call__(self, **changes: Any) -> Any:
        """What the function gives; ``changes`` go before what was given."""
        function, reports = load(self.function), self.reports - changes.keys()
        if not reports:
            return function(**self.arguments | changes)
        with console.status("") as status:
            ways = {
                "progress": lambda line: status.update(escape(line)),
                "tell": lambda line: say(escape(line)),
            }
            return function(**self.arguments | {name: ways[name] for name in reports} | changes)

    def prints_json(self, value: Any) -> bool:
        """Whether JSON was asked for, which is then printed."""
        if self.shell["as_json"]:
            print_json(value)
        return self.shell["as_json"]


class ShellOption(NamedTuple):
    """An option or argument, and what its value is for.

    Attributes:
        option: with its annotation, its default and its help.
        of: the record that it is a field of; ``shell``, if the function does not have it;
            ``process``, if it is dealt with when it is read; else empty.
        takes_none: whether the function is told that nothing was given.
    """

    option: Option
    of: str
    takes_none: bool

    @property
    def kind(self) -> Any:
        return shell_type(self.option.annotation)

    def read(self, value: Any) -> Any:
        """The value as the function takes it."""
        if value is None:
            return None
        if self.option.read:
            return load(self.option.read)(value)
        listed = self.kind is str and _is_list(self.option.annotation) and isinstance(value, str)
        return split(value) if listed else value

    def flag(self, name: str) -> str:
        """Its name on the command line; empty, if it is an argument, which has none."""
        argument = self.option.default is REQUIRED and not self.option.names
        return "" if argument else (self.option.names or (f"--{name.replace('_', '-')}",))[0]

    def in_signature(self, name: str) -> inspect.Parameter:
        """The parameter that typer makes an option of."""
        option, kind, default = self.option, self.kind, self.option.default
        several = ("FILE" if kind is Path else "NAME") if option.repeated else None
        settings: dict[str, Any] = {"min": option.least, "max": option.most}
        settings |= {"help": escape(option.help), "envvar": option.envvar}
        settings["metavar"] = option.metavar or several
        if option.completes:
            settings["autocompletion"] = complete(option.completes)
        if option.at_once:

            def callback(value: Any) -> None:
                if value:
                    load(option.at_once)(value)

            # Cards of one's own have to be there before other options name them.
            settings |= {"callback": callback, "is_eager": name == "cards"}
        if not (flag := self.flag(name)):
            info = typer.Argument(**settings)
        else:
            alone = (flag,) if kind is bool and not default else ()  # and no --no-
            info = typer.Option(*(option.names or alone), **settings)
        kind = list[kind] if option.repeated else kind
        kind = kind | None if default is None else kind
        default = inspect.Parameter.empty if default is REQUIRED else default
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
        )


def add_command(app: typer.Typer, name: str, command: Command, panel: str | None = None) -> None:
    """Add a command; its help is the docstring of its function, and its note."""
    signature = read_signature(command.function)
    options = shell_options(command)

    def run(**values: Any) -> None:
        call = read_call(command, options, values)
        code = (
            load(command.shown)(call)
            if command.shown
            else show(call(), call.shell.get("as_json", False))
        )
        if code:
            raise typer.Exit(code)

    flags = {name: option.flag(name) for name, option in options.items()}
    naming = {options[name].option.completes: flag for name, flag in flags.items() if flag}
    cls = partial(ShellCommand, naming=naming)
    parameters = [option.in_signature(name) for name, option in options.items()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    paragraphs = f"{signature.text}\n\n{command.note}".strip().split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    app.command(name, cls=cls, help=escape(text), rich_help_panel=panel)(run)  # type: ignore[arg-type]


def shell_options(command: Command) -> dict[str, ShellOption]:
    """The options of a command by the names of their parameters."""
    parameters = read_signature(command.function).parameters
    hidden = {*command.records, *_REPORTS}
    placed = {
        name: (parameter, "")
        for name, parameter in parameters.items()
        if name not in hidden and "Callable" not in parameter.annotation
    }
    for record, (place, *chosen) in command.records.items():
        record_fields = read_signature(place).parameters
        placed |= {name: (record_fields[name], record) for name in chosen or record_fields}
    of_the_shell = [*command.options, *command.also]
    of_the_shell += ["cards"] * (not CARD_NAMES.isdisjoint(placed))
    for name in of_the_shell:
        placed.setdefault(name, (Option(annotation="str", default=None), "shell"))
    return {
        name: _describe(name, parameter, of, command.options.get(name, Option()))
        for name, (parameter, of) in placed.items()
    }


def _describe(name: str, parameter: Option, of: str, shown_as: Option) -> ShellOption:
    """An option: what its command says of it, or else ``SHARED``, the signature and docstrings."""
    # What the docstring does not say, that of ``run`` or ``Compute`` does.
    others = [read_signature(place).parameters.get(name, Option()) for place in ("Compute", "run")]
    helps = [Option(help=other.help) for other in others]
    option = _overlay(*helps, parameter, SHARED.get(name, Option()), shown_as)
    default, text = option.default, option.help
    if option.repeated or default is COMPUTED or default == ():
        default = None  # and nothing is given to the function then
    if shell_type(option.annotation) is Path and isinstance(default, str):
        default = Path(default)
    if "/" not in text.split(" ")[0]:  # an address keeps its small letter
        text = text[:1].upper() + text[1:]
    names = (option.names,) if isinstance(option.names, str) else option.names
    takes_none = bool(of) or parameter.default in (None, REQUIRED)
    whole = replace(option, names=names, default=default, help=text)
    return ShellOption(whole, "process" if option.at_once else of, takes_none)


def _overlay(*options: Option) -> Option:
    """Of each fact what the last option says that says anything of it."""
    nothing, said = vars(Option()), dict[str, Any]()
    for option in options:
        said |= {key: value for key, value in vars(option).items() if value != nothing[key]}
    return Option(**said)


def read_call(
    command: Command, options: Mapping[str, ShellOption], values: Mapping[str, Any]
) -> Call:
    """The call that a command's values make."""
    parameters = read_signature(command.function).parameters
    call = Call(command.function, reports=frozenset(_REPORTS) & parameters.keys())
    records = {name: {} for name in command.records}
    targets = {"": call.arguments, "shell": call.shell, "process": {}, **records}
    for name, option in options.items():
        value = option.read(values[name])
        if value is not None or option.takes_none:
            targets[option.of][name] = value
    for name, (place, *_) in command.records.items():
        if name in parameters:
            call.arguments[name] = load(place)(**records[name])
        else:
            call.shell[name] = records[name]
    return call


@cache
def shell_type(annotation: str) -> Any:
    """The type that a shell reads for an annotation; for what it has no word of, a text."""
    members = _members(annotation)
    for kind in ("bool", "Literal", "Path", "tuple[Path", "str", "int", "float"):
        for member in members:
            if member.startswith(kind):
                return eval(member, dict(_KINDS))
    return str


def _members(annotation: str) -> list[str]:
    """The parts of a union."""
    node = ast.parse(annotation, mode="eval").body
    if isinstance(node, ast.BinOp):
        return [part for side in (node.left, node.right) for part in _members(ast.unparse(side))]
    return [annotation]


def _is_list(annotation: str) -> bool:
    members = _members(annotation)
    lists = ("Sequence[", "Collection[", "list[")
    return "str" not in members and any(member.startswith(lists) for member in members)
