"""Cells of aligned attaching: the fit of a plain cell, measured through a turn from words.

``tip_adapter_f+aligned`` is Tip-Adapter-F, its modules attached as ``alignment.attaching`` does.
Its cells have records and results of their own, and no fit of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from compatbench.data.cards import SuiteCard
from compatbench.data.cards.select import unknown_name
from compatbench.engine.cell import Cell
from compatbench.engine.record import SUFFIX
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import sha256_json
from compatbench.method.registry import MethodRegistry
from compatbench.transfer.attaching import acts_at_output
from compatbench.transfer.words import words_hash


@dataclass(frozen=True)
class AlignedCell(Cell):
    """A cell whose module is another cell's.

    Attributes:
        plain: the cell that is fitted.
    """

    plain: Cell = field(kw_only=True)


def align_cell(cell: Cell) -> AlignedCell:
    """The cell of an aligned method's name, which was planned like the plain method's."""
    name = plain_name(cell.name)
    plain = replace(cell, config_name="" if name == cell.method else name)
    values = {name: getattr(cell, name) for name in cell.__dataclass_fields__}
    return AlignedCell(**{**values, "key": aligned_key(cell.key)}, plain=plain)


def aligned_key(fit_key: str) -> str:
    """The key of the records of a fit that is attached through words."""
    return sha256_json(["aligned", fit_key, words_hash(), ENGINE_VERSION])


def is_aligned(name: str) -> bool:
    return name.endswith(SUFFIX)


def plain_name(name: str) -> str:
    """The name of the method or config that is attached."""
    return name.removesuffix(SUFFIX)


def aligned_names(suite: SuiteCard, registry: MethodRegistry) -> list[str]:
    """The names that a glob such as ``*+aligned`` means: what acts on features."""
    names = [*registry.names(), *suite.configs]
    cards = {name: registry.get(suite.base_method(name)).card for name in names}
    return [f"{name}{SUFFIX}" for name in names if acts_at_output(cards[name])]


def expand_aligned(
    parts: Iterable[str], suite: SuiteCard, registry: MethodRegistry
) -> tuple[list[str], list[str]]:
    """A selection's parts, with aligned names where a part ends in ``aligned``.

    No other glob means an aligned name: ``*tip*`` means plain methods. What acts in the towers
    alone is aligned only where it is named: a turn is nothing to it, unless it reads features
    there, as CoCoOp and TCP do.

    Returns:
        The parts, and the aligned names among them.

    Raises:
        CompatbenchError: a name that cannot be attached through words.
    """
    known = aligned_names(suite, registry)
    plain = [*registry.names(), *suite.configs]
    expanded, named = [], []
    for part in parts:
        pattern = part.removeprefix("!")
        mark = part[: len(part) - len(pattern)]
        found: list[str] = []
        if pattern.endswith("aligned"):
            found = [name for name in known if fnmatchcase(name, pattern)]
        if is_aligned(pattern) and not found:
            found = [_check_alignable(pattern, suite, registry, known)]
        expanded += [mark + name for name in found]
        named += found
        if not found or any(fnmatchcase(name, pattern) for name in plain):
            expanded.append(part)
    return expanded, list(dict.fromkeys(named))


def _check_alignable(
    name: str, suite: SuiteCard, registry: MethodRegistry, known: list[str]
) -> str:
    """Raises CompatbenchError: no such method, or one without a module."""
    plain = plain_name(name)
    if plain not in registry.classes and plain not in suite.configs:
        raise CompatbenchError(unknown_name(name, known, "aligned method"))
    if registry.get(suite.base_method(plain)).card.depth == "none":
        raise CompatbenchError(f"'{name}': {plain} has no module to align; drop '{SUFFIX}'")
    return name
