"""Reads a YAML card into a pydantic model; an error names the file, the line and the field."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from compatbench.errors import CompatbenchError

# libyaml reads ImageNet's card ten times as fast; not every build of PyYAML has it.
SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
KIND = "kind"  # the field that tells the schemas of a union apart
MOST_VALUES = 1_000_000  # of a card with its aliases written out


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


Card = TypeVar("Card", bound=CardModel)


def read_card(path: Path, model: type[Card], builtin: Path | None = None) -> Card:
    """Reads one card.

    A card whose model has a field ``extends`` may name another card, whose fields it takes
    where it gives none of its own. That card is in the same folder, or else in ``builtin``.

    Raises:
        CompatbenchError: the file is missing, is not YAML, or breaks the model's schema.
    """
    values, text = _parse(path)
    if "extends" in model.model_fields and isinstance(base := values.get("extends"), str):
        where = f"{path}:{_find_field(text, ('extends',))[0]}: field 'extends'"
        places = [folder / f"{base}.yaml" for folder in (path.parent, builtin) if folder]
        base_path = next((place for place in places if place.is_file()), None)
        if base_path is None:
            raise CompatbenchError(f"{where}: there is no {' and no '.join(map(str, places))}")
        inherited, _ = _parse(base_path)
        if "extends" in inherited:
            raise CompatbenchError(f"{where}: {base} extends a card itself")
        read_card(base_path, model)  # its own mistakes are told as its own
        values = inherited | values
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        location = (*first["loc"], *([KIND] if first["type"].startswith("union_tag") else []))
        line, field = _find_field(text, location)
        message = {
            "missing": f"field '{field}' is missing; add it",
            "extra_forbidden": f"field '{field}' is not known; remove it or correct its name",
        }.get(first["type"], f"field '{field}': {first['msg']}")
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise CompatbenchError(f"{path}:{line}: {message}{more}") from None


def _parse(path: Path) -> tuple[dict[str, Any], str]:
    """A card's values and its text. Paths of plug-ins are relative to the card's folder."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise CompatbenchError(f"cannot read card {path}: {why}") from None
    try:
        values = yaml.load(text, Loader)
        _check_values(values)
    except (yaml.YAMLError, LookupError, ValueError, AttributeError, RecursionError) as error:
        # PyYAML lets the errors of its own constructors escape for scalars such as `!!int ''`.
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or (str(error) or "a value").splitlines()[0]
        where = f"{path}:{mark.line + 1 if mark else 1}"
        raise CompatbenchError(f"{where}: not valid YAML: {problem}") from None
    if not isinstance(values, dict):
        raise CompatbenchError(f"{path}:1: a card is a mapping of fields to values")
    if isinstance(plugins := values.get("plugins"), list):
        folder = path.parent.resolve()
        values["plugins"] = [
            folder / os.path.expanduser(plugin) if isinstance(plugin, str) else plugin
            for plugin in plugins
        ]
    return values, text


def _check_values(values: Any) -> None:
    """Raises a ValueError for what no card holds; an alias counts at each of its uses."""
    pending, count = [values], 0
    while pending:
        value = pending.pop()
        count += 1
        if count + len(pending) > MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")
        if isinstance(value, dict):
            pending += [*value, *value.values()]
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, str):
            value.encode()  # raises UnicodeError, for half a character such as "\ud800"
        elif isinstance(value, (int, float)):
            if not abs(value) < 2**63:
                raise ValueError("a number is too large, or not finite")
        elif value is not None:
            # The order of a set is not the same in any two runs.
            raise ValueError(f"a card holds no {type(value).__name__}; write a list or a word")


def _find_field(text: str, location: tuple[int | str, ...]) -> tuple[int, str]:
    """The line of the deepest part of a location that a card's text has, and the field's name.

    pydantic adds a union's tag to a location, as if it were a field; it is left out.
    """
    node: yaml.Node | None = yaml.compose(text, Loader)
    line, names = 1, []
    for part in map(str, location):
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
