"""Reads a YAML card into a pydantic model; an error names the file, the line and the field."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from compatbench.errors import CompatbenchError
from compatbench.messages import first_line

# libyaml reads ImageNet's card ten times as fast; not every build of PyYAML has it.
SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MALFORMED = (yaml.YAMLError, LookupError, ValueError, TypeError, AttributeError, RecursionError)
WEIGHTS_FOLDER = "COMPATBENCH_WEIGHTS"  # variable for a folder of weights
KIND = "kind"  # the field that tells the schemas of a union apart


class Loader(SAFE_LOADER):
    """Reads plain values, as all safe loaders do, and refuses a key that is given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in getattr(node, "value", ()):
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"'{key.value}' is given twice; drop one", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


class CardModel(BaseModel):
    """The base of all cards: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def check_place(place: str, card_folder: Path) -> str:
    """A ``ValueError`` refuses a file or folder that a card names and its reader does not.

    Only those in the card's folder, and in the one that the reader names for weights, are read.
    """
    weights = os.environ.get(WEIGHTS_FOLDER)
    folders = [card_folder, *([Path(weights).expanduser()] if weights else [])]
    real = Path(os.path.realpath(Path(place).expanduser()))
    if not any(real.is_relative_to(os.path.realpath(folder)) for folder in folders):
        where = f"neither in the card's folder nor in one that {WEIGHTS_FOLDER} names"
        raise ValueError(f"{place} is {where}; set it, or put the file beside the card")
    return place


Card = TypeVar("Card", bound=CardModel)


def read_card(path: Path, model: type[Card], find: Callable[[str], Path] | None = None) -> Card:
    """Reads one card.

    A card whose model has a field ``extends`` may name another card, whose fields it takes
    where it gives none of its own; of ``methods``, the settings. That card is in the same
    folder, or else where ``find`` says, which raises an error if there is none.
    """
    values, text = _parse(path)
    if "extends" in model.model_fields and isinstance(base := values.get("extends"), str):
        where = f"{path}:{_find_field(text, ('extends',))[0]}: field 'extends'"
        base_path = path.parent / f"{base}.yaml"
        if not base_path.is_file() and find is not None:
            try:
                base_path = find(base)
            except CompatbenchError as error:
                raise CompatbenchError(f"{where}: {error}") from None
        inherited, _ = _parse(base_path)
        for name in ("tuning", "run_seeds", "likeness", "about", "made_by"):
            inherited.pop(name, None)
        if "extends" in inherited:
            raise CompatbenchError(f"{where}: {base} extends a card itself")
        read_card(base_path, model)  # its own mistakes are reported as its own
        if isinstance(inherited.get("methods"), dict) and isinstance(values.get("methods"), dict):
            values["methods"] = _merge(inherited["methods"], values["methods"])
        values = inherited | values
    try:
        return model.model_validate(values, context=path.parent)
    except ValidationError as error:
        first = error.errors()[0]
        location = (*first["loc"], *([KIND] if first["type"].startswith("union_tag") else []))
        line, field = _find_field(text, location)
        message = {
            "missing": f"field '{field}' is missing; add it",
            "extra_forbidden": f"field '{field}' is not known; remove it or correct its name",
        }.get(first["type"], f"field '{field}': {first['msg'].removeprefix('Value error, ')}")
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise CompatbenchError(f"{path}:{line}: {message}{more}") from None


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Both mappings in one; where both have a value, mappings are merged and others replaced."""
    merged = base | changes
    for key in base.keys() & changes.keys():
        if isinstance(base[key], dict) and isinstance(changes[key], dict):
            merged[key] = _merge(base[key], changes[key])
    return merged


def _parse(path: Path) -> tuple[dict[str, Any], str]:
    """A card's values and its text. Paths of plug-ins are relative to the card's folder."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CompatbenchError(f"cannot read card {path}: {first_line(error)}") from None
    values = _load(path, text)
    if not isinstance(values, dict):
        raise CompatbenchError(f"{path}:1: a card is a mapping of fields to values")
    values = dict(values)  # which the next reading is given as well
    if isinstance(plugins := values.get("plugins"), list):
        folder = path.parent.resolve()
        values["plugins"] = [
            folder / os.path.expanduser(plugin) if isinstance(plugin, str) else plugin
            for plugin in plugins
        ]
    return values, text


@lru_cache(maxsize=256)  # a plan asks thousands of times for some thirty cards
def _load(path: Path, text: str) -> Any:
    """The values of a text, which nobody changes; ``path`` is for its errors."""
    try:
        # An alias can stand for more values than any memory holds.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader)):
            raise ValueError("aliases (*name) are not read; write the values out")
        values = yaml.load(text, Loader)
        # Refuses dates and sets, numbers that are not finite, and half characters ("\\ud800").
        json.dumps(values, allow_nan=False, ensure_ascii=False).encode()
    except MALFORMED as error:
        # PyYAML lets the errors of its own constructors escape for scalars such as `!!int ''`.
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or (str(error) or "a value").splitlines()[0]
        where = f"{path}:{mark.line + 1 if mark else 1}"
        raise CompatbenchError(f"{where}: not valid YAML: {problem}") from None
    return values


def _find_field(text: str, location: tuple[int | str, ...]) -> tuple[int, str]:
    """The line of the deepest part of a location that a card's text has, and the field's name.

    pydantic adds a union's tag or type to a location, as if it were a field; it is left out.
    """
    node: yaml.Node | None = yaml.compose(text, Loader)
    line, names = 1, []
    for part in map(str, location):
        if isinstance(node, yaml.ScalarNode):
            break
        inner: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        if isinstance(node, yaml.MappingNode):
            inner = {str(key.value): (key, value) for key, value in node.value}
            if part not in inner and KIND in inner and inner[KIND][1].value == part:
                continue
        elif isinstance(node, yaml.SequenceNode):
            inner = {str(number): (item, item) for number, item in enumerate(node.value)}
        names.append(part)
        key, node = inner.get(part, (None, None))
        line = key.start_mark.line + 1 if key else line
    return line, ".".join(names) or "card"
