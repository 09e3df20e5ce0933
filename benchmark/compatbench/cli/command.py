"""Commands from functions: a signature gives the options, a docstring the help."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from compatbench.cli.options import CARD_NAMES, SHARED, complete, split
from compatbench.cli.output import console, print_json, say, show
from compatbench.cli.signature import COMPUTED, Parameter, read_signature
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


@dataclass(frozen=True)
class ShellOption:
    """An option or argument, and what its value is for.

    Attributes:
        of: the record that it is a field of; ``shell``, if the function does not have it;
            ``process``, if it is dealt with when it is read.
    """

    parameter: Parameter
    option: Option
    of: str = ""

    @property
    def default(self) -> object:
        """A value or ``REQUIRED``; None if nothing is given to the function then."""
        default = self.option.default
        default = self.parameter.default if default is ... else default
        if self.option.repeated or default is COMPUTED or default == ():
            return None
        return Path(default) if self._kind is Path and isinstance(default, str) else default

    @property
    def annotation(self) -> str:
        return self.option.annotation or self.parameter.annotation

    @property
    def _kind(self) -> Any:
        return shell_type(self.annotation)

    def read(self, value: Any) -> Any:
        """The value as the function takes it."""
        if value is None:
            return None
        if self.option.read:
            return load(self.option.read)(value)
        listed = self._kind is str and _is_list(self.annotation) and isinstance(value, str)
        return split(value) if listed else value

    def in_signature(self, name: str) -> inspect.Parameter:
        """The parameter that typer makes an option of."""
        option, kind, default = self.option, self._kind, self.default
        names = (option.names,) if isinstance(option.names, str) else option.names
        settings: dict[str, Any] = {"min": option.least, "max": option.most}
        settings |= {"help": self._help(name), "envvar": option.envvar}
        several = ("FILE" if kind is Path else "NAME") if option.repeated else None
        settings["metavar"] = option.metavar or several
        if option.completes:
            settings["autocompletion"] = complete(option.completes)
        if option.at_once:
            # Cards of one's own have to be there before other options name them.
            settings |= {"callback": _at_once(option.at_once), "is_eager": name == "cards"}
        if names == ("",) or (default is REQUIRED and not names):
            info = typer.Argument(**settings)
        else:
            if kind is bool and not default:
                names = names or (f"--{name.replace('_', '-')}",)  # and no --no-
            info = typer.Option(*names, **settings)
        kind = list[kind] if option.repeated else kind
        kind = kind | None if default is None else kind
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is REQUIRED else default,
            annotation=Annotated[kind, info],
        )

    def _help(self, name: str) -> str:
        """What the docstring says; if it says nothing, what that of ``run`` or ``Compute`` does."""
        texts = [self.option.help, self.parameter.help]
        for place in ("run", "Compute"):
            if name in (parameters := read_signature(place).parameters):
                texts.append(parameters[name].help)
        text = next(filter(None, texts), "")
        if "/" not in text.split(" ")[0]:  # an address keeps its small letter
            text = text[:1].upper() + text[1:]
        return escape(text)


def add_command(app: typer.Typer, name: str, command: Command, panel: str | None = None) -> None:
    """Adds a command; its help is the docstring of its function, and its note."""
    signature = read_signature(command.function)
    options = shell_options(command)
    reports = frozenset(_REPORTS) & signature.parameters.keys()

    def run(**values: Any) -> None:
        call = read_call(command, options, values)
        call.reports = reports
        code = load(command.shown)(call) if command.shown else show(call())
        if code:
            raise typer.Exit(code)

    parameters = [option.in_signature(name) for name, option in options.items()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    paragraphs = f"{signature.text}\n\n{command.note}".strip().split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    app.command(name, help=escape(text), rich_help_panel=panel)(run)


def shell_options(command: Command) -> dict[str, ShellOption]:
    """The options of a command by the names of their parameters."""
    parameters = read_signature(command.function).parameters
    hidden = {*command.leave_out, *command.records, *_REPORTS}
    placed = {
        name: (parameter, "")
        for name, parameter in parameters.items()
        if name not in hidden and "Callable" not in parameter.annotation
    }
    for record, (place, *chosen) in command.records.items():
        record_fields = read_signature(place).parameters
        for name in chosen or record_fields:
            placed[name] = record_fields[name], record
    nothing = Parameter("str", None, "")
    of_the_shell = [*command.options, *command.also]
    of_the_shell += ["cards"] * (not CARD_NAMES.isdisjoint(placed))
    for name in of_the_shell:
        placed.setdefault(name, (nothing, "shell"))
    options = {}
    for name, (parameter, of) in placed.items():
        option = _overlay(SHARED.get(name, Option()), command.options.get(name, Option()))
        options[name] = ShellOption(parameter, option, "process" if option.at_once else of)
    return options


def read_call(
    command: Command, options: Mapping[str, ShellOption], values: Mapping[str, Any]
) -> Call:
    """The call that a command's values make."""
    call, records = Call(command.function), {name: {} for name in command.records}
    targets = {"": call.arguments, "shell": call.shell, **records}
    for name, option in options.items():
        if option.of == "process":
            continue
        value = option.read(values[name])
        if value is not None or option.parameter.default in (None, REQUIRED) or option.of:
            targets[option.of][name] = value
    parameters = read_signature(command.function).parameters
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


def _overlay(below: Option, above: Option) -> Option:
    """What the upper says, and the lower where that says nothing."""
    nothing = Option()
    said = {each.name: getattr(above, each.name) for each in fields(Option)}
    return replace(
        below, **{name: value for name, value in said.items() if value != getattr(nothing, name)}
    )


def _at_once(place: str) -> Callable[[Any], Any]:
    def callback(value: Any) -> Any:
        if value:
            load(place)(value)
        return value

    return callback
