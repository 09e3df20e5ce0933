"""Read and write YAML with bounds: a short text cannot take much memory or time.

Aliases are refused, because a few of them can stand for more values than any memory holds. Numbers
are those of YAML 1.2: YAML 1.1 also has numbers to base 60 (``1:30``) and octal ones (``010``).
"""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from compatbench.files.sizes import format_bytes

# libyaml reads ImageNet's card ten times as fast; not every build of PyYAML has it.
_SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# PyYAML lets the errors of its own constructors escape for scalars such as `!!int ''`.
MALFORMED = (yaml.YAMLError, LookupError, ValueError, TypeError, AttributeError, RecursionError)
MOST_BYTES = 1 << 20
_MOST_LEVELS = 50
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_BASES = {"0o": 8, "0x": 16}
_NUMBERS = {
    _INT: re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII),
    _FLOAT: re.compile(
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
}


class YamlLoader(_SAFE_LOADER):
    """Reads plain values, as all safe loaders do, and refuses duplicate keys."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
        for first, resolvers in _SAFE_LOADER.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in getattr(node, "value", ()):
            if not isinstance(key, yaml.ScalarNode):
                continue
            identity = (key.tag, key.value)
            if identity in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key.value}' is given twice; drop one", key.start_mark
                )
            seen.add(identity)
        return super().construct_mapping(node, deep)

    def construct_int(self, node: Any) -> int:
        text = self.construct_scalar(node)
        return int(text, _BASES.get(text[:2], 10))

    def construct_float(self, node: Any) -> float:
        text = self.construct_scalar(node)
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))


class _Dumper(yaml.SafeDumper):
    """Quotes texts that look like a number, in YAML 1.1 or in YAML 1.2."""


for _tag, _pattern in _NUMBERS.items():
    _whole = re.compile(f"^(?:{_pattern.pattern})$", _pattern.flags)
    YamlLoader.add_implicit_resolver(_tag, _whole, list("-+0123456789."))
    _Dumper.add_implicit_resolver(_tag, _whole, list("-+0123456789."))
YamlLoader.add_constructor(_INT, YamlLoader.construct_int)
YamlLoader.add_constructor(_FLOAT, YamlLoader.construct_float)


def load_yaml(text: str) -> Any:
    """Return the plain values of a text.

    Raises:
        One of ``MALFORMED``: the text is not YAML, has aliases, dates, sets or numbers that are not
        finite, nests too deep, or is too long.
    """
    _check_length(len(text))
    level = 0
    for event in yaml.parse(text, YamlLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("aliases (*name) are not read; write the values out")
        if isinstance(event, yaml.CollectionStartEvent):
            level += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            level -= 1
        if level > _MOST_LEVELS:
            raise ValueError(f"it nests more than {_MOST_LEVELS} levels")
    values = yaml.load(text, YamlLoader)
    # This refuses dates, sets, numbers that are not finite, and half characters ("\\ud800").
    json.dumps(values, allow_nan=False, ensure_ascii=False).encode()
    return values


def read_yaml_text(path: Path) -> str:
    """Return the text of a plain file that can be YAML.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a pipe, a device or a folder, too long, or not UTF-8.
    """
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):  # reading a pipe would wait, and a device may never end
        raise ValueError("it is not a plain file")
    _check_length(facts.st_size)
    return path.read_text(encoding="utf-8")


def dump_yaml(values: Any, *, width: int) -> str:
    """Return values as YAML, in their order, with lines of about ``width`` characters."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)


def _check_length(length: int) -> None:
    if length > MOST_BYTES:
        raise ValueError(f"it is larger than {format_bytes(MOST_BYTES)}")
