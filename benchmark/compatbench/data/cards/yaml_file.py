"""Reading of YAML cards into pydantic models; errors name the file, the line and the field."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from compatbench.errors import CompatbenchError
from compatbench.files.yaml_text import MALFORMED, YamlLoader, load_yaml, read_yaml_text
from compatbench.messages import first_line

WEIGHTS_FOLDER = "COMPATBENCH_WEIGHTS"  # variable for a folder of weights
KIND = "kind"  # the field that selects one of the schemas of a union


class CardModel(BaseModel):
    """The base of all cards: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def check_place(place: str, card_folder: Path) -> str:
    """Return a path on a card if a card may lead there; raise ``ValueError`` otherwise.

    A card may only lead to its own folder, and to the folder of weights that its reader has set:
    a card from elsewhere must not choose which of the reader's files are read.
    """
    folders = [card_folder]
    weights = os.environ.get(WEIGHTS_FOLDER)
    if weights:
        folders.append(Path(weights).expanduser())
    real = Path(os.path.realpath(Path(place).expanduser()))
    if not any(real.is_relative_to(os.path.realpath(folder)) for folder in folders):
        where = f"neither in the card's folder nor in one that {WEIGHTS_FOLDER} names"
        raise ValueError(f"{place} is {where}; set it, or put the file beside the card")
    return place


Card = TypeVar("Card", bound=CardModel)
# Fields that a suite does not take from the suite that it extends.
NOT_INHERITED = ("tuning", "run_seeds", "more_upgrades", "likeness", "about", "made_by")


def read_card(path: Path, model: type[Card], find: Callable[[str], Path] | None = None) -> Card:
    """Read one card.

    A card whose model has a field ``extends`` may name another card, whose fields are its
    defaults; the settings in ``methods`` are merged. That card is in the same folder, or else
    where ``find`` finds it.

    Raises:
        CompatbenchError: the card is not there or broken, or extends a card that extends another.
    """
    values, text = _parse(path)
    base = values.get("extends")
    if "extends" in model.model_fields and isinstance(base, str):
        line, _ = _find_field(text, ("extends",))
        where = f"{path}:{line}: field 'extends'"
        base_path = path.parent / f"{base}.yaml"
        if not base_path.is_file() and find is not None:
            try:
                base_path = find(base)
            except CompatbenchError as error:
                raise CompatbenchError(f"{where}: {error}") from None
        inherited, _ = _parse(base_path)
        for name in NOT_INHERITED:
            inherited.pop(name, None)
        if "extends" in inherited:
            raise CompatbenchError(f"{where}: {base} extends a card itself")
        read_card(base_path, model)  # so that its mistakes are reported with its own path
        base_methods = inherited.get("methods")
        methods = values.get("methods")
        if isinstance(base_methods, dict) and isinstance(methods, dict):
            values["methods"] = _merge(base_methods, methods)
        values = inherited | values
    try:
        return model.model_validate(values, context=path.parent)
    except ValidationError as error:
        raise CompatbenchError(f"{path}:{_describe_problem(error, text)}") from None


def _describe_problem(error: ValidationError, text: str) -> str:
    """Return the line, the field and the message of a card's first problem."""
    first = error.errors()[0]
    kind = first["type"]
    location = first["loc"]
    if kind.startswith("union_tag"):
        location = (*location, KIND)
    line, field = _find_field(text, location)
    if kind == "missing":
        message = f"field '{field}' is missing; add it"
    elif kind == "extra_forbidden":
        message = f"field '{field}' is not known; remove it or correct its name"
    else:
        problem = first["msg"].removeprefix("Value error, ")
        message = f"field '{field}': {problem}"
    others = error.error_count() - 1
    if others:
        message += f" (and {others} more)"
    return f"{line}: {message}"


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return both mappings in one. If both have a value, merge mappings and replace others."""
    merged = base | changes
    for key in base.keys() & changes.keys():
        if isinstance(base[key], dict) and isinstance(changes[key], dict):
            merged[key] = _merge(base[key], changes[key])
    return merged


def _parse(path: Path) -> tuple[dict[str, Any], str]:
    """Return a card's values and its text. Paths of plug-ins become absolute."""
    try:
        text = read_yaml_text(path)
    except (OSError, ValueError) as error:
        raise CompatbenchError(f"cannot read card {path}: {first_line(error)}") from None
    values = _load(path, text)
    if not isinstance(values, dict):
        raise CompatbenchError(f"{path}:1: a card is a mapping of fields to values")
    values = dict(values)  # a copy: ``_load`` returns the same object to the next caller
    plugins = values.get("plugins")
    if isinstance(plugins, list):
        folder = path.parent.resolve()
        paths = []
        for plugin in plugins:
            if isinstance(plugin, str):
                paths.append(folder / os.path.expanduser(plugin))
            else:
                paths.append(plugin)  # the schema reports it
        values["plugins"] = paths
    return values, text


@lru_cache(maxsize=256)  # a plan reads some thirty cards thousands of times
def _load(path: Path, text: str) -> Any:
    """Return the values of a text, which callers must not change; ``path`` is for errors."""
    try:
        return load_yaml(text)
    except MALFORMED as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None)
        if not problem:
            problem = (str(error) or "a value").splitlines()[0]
        raise CompatbenchError(f"{path}:{line}: not valid YAML: {problem}") from None


def _find_field(text: str, location: tuple[int | str, ...]) -> tuple[int, str]:
    """Return the line of the deepest part of a location in a card's text, and the field's name.

    pydantic adds a union's tag or type to a location, as if it were a field; it is left out.
    """
    node: yaml.Node | None = yaml.compose(text, YamlLoader)
    line = 1
    names = []
    for part in map(str, location):
        if isinstance(node, yaml.ScalarNode):
            break
        inner: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner[str(key.value)] = (key, value)
            if part not in inner and KIND in inner and inner[KIND][1].value == part:
                continue
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                inner[str(number)] = (item, item)
        names.append(part)
        found, node = inner.get(part, (None, None))
        if found:
            line = found.start_mark.line + 1
    return line, ".".join(names) or "card"
