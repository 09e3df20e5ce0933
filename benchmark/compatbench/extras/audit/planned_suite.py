"""Plan the results of a suite in another process, because planning imports methods.

The process that audits receives plain data from it, and compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from compatbench.backbone.backbone import PRECISIONS
from compatbench.data.cards import COPIED, SuiteCard, select_names
from compatbench.engine.cell import Cell
from compatbench.engine.described_method import DescribedMethod, describe_method
from compatbench.engine.execute.planning import Planner
from compatbench.engine.missing import Missing, find_missing
from compatbench.engine.plan import find_teachers, plan_cells
from compatbench.engine.plan_data import read_data, write_data
from compatbench.engine.request import make_request
from compatbench.method import Method
from compatbench.method.registry import builtin_methods, find_transfer, known_transfer


@dataclass(frozen=True)
class MeasuredMethod:
    """What the files of a method say about how it was run."""

    precision: str | None  # None means the suite's
    transfers: tuple[str, ...]  # of its rows


@dataclass(frozen=True)
class PlannedSuite:
    """What this checkout plans for the results of a suite; plain data, without any class."""

    methods: Mapping[str, DescribedMethod] = field(default_factory=dict)  # those known here
    # Methods that must have results: those of ``--methods all`` that are in this repository. Not
    # every machine has the methods of other packages.
    compared: tuple[str, ...] = ()
    cells: tuple[Cell, ...] = ()  # of the methods known here
    missing: Missing = field(default_factory=Missing)  # not on this machine


def add_files(planner: Planner, methods: str) -> None:
    """Let the process of a planner import method files, separated by commas."""
    planner.ask(partial(_add_files, methods))


def plan_suite(
    planner: Planner,
    card: SuiteCard,
    measured: Mapping[str, MeasuredMethod],
    seeds: Sequence[int],
) -> PlannedSuite:
    """Return what the process of a planner plans for the methods and seeds that a suite has.

    Raises:
        CompatbenchError: as for a run.
    """
    return read_data(PlannedSuite, planner.ask(partial(_plan_suite, card, measured, seeds)))


def _add_files(methods: str) -> None:
    builtin_methods().select(methods)


def _plan_suite(
    card: SuiteCard, measured: Mapping[str, MeasuredMethod], seeds: Sequence[int]
) -> Any:
    """Return the planned suite as JSON values."""
    registry = builtin_methods()
    for path in card.plugins:
        registry.add_file(path)
    names = [*registry.names(), *card.configs]
    known = {name: about for name, about in measured.items() if name in names}
    missing = find_missing(card, teachers=find_teachers(card, known))
    described = {}
    for name, about in known.items():
        method = registry.get(card.base_method(name))
        described[name] = describe_method(_as_measured(card, about), method, name)
    compared = []
    for name in select_names(card.compare, names, "method"):
        _, foreign_file = registry.identify(card.base_method(name))
        if foreign_file is None:
            compared.append(name)
    planned = PlannedSuite(
        methods=described,
        compared=tuple(compared),
        cells=tuple(_plan_cells(card, known, seeds, missing)),
        missing=missing,
    )
    return write_data(planned)


def _plan_cells(
    card: SuiteCard, methods: Mapping[str, MeasuredMethod], seeds: Sequence[int], missing: Missing
) -> list[Cell]:
    """Plan the cells of methods, at the precision and with the transfers of their files."""
    # One plan serves all methods with the same precision and transfers.
    suites: dict[tuple[str, tuple[str, ...]], SuiteCard] = {}
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, measured in methods.items():
        suite = _as_measured(card, measured)
        method = builtin_methods().get(card.base_method(name))
        transfers = _list_transfers(suite, method, measured)
        group = suite.training.precision, transfers
        suites.setdefault(group, suite)
        groups.setdefault(group, []).append(name)
    cells: list[Cell] = []
    for group, names in groups.items():
        _, transfers = group
        request = make_request(suites[group], names, transfers=transfers, seeds=seeds)
        cells += plan_cells(request, missing)
    return sorted(cells, key=lambda cell: cell.name)


def _list_transfers(
    suite: SuiteCard, method: type[Method], measured: MeasuredMethod
) -> tuple[str, ...]:
    """Return the transfers of the suite that take a method, and those of its rows."""
    transfers = []
    # A request that names a transfer must name one that takes the method.
    for name in suite.transfers:
        if name == COPIED or find_transfer(name).serves(method.card):
            transfers.append(name)
    transfers += filter(known_transfer, measured.transfers)
    return tuple(dict.fromkeys(transfers or suite.transfers))


def _as_measured(card: SuiteCard, measured: MeasuredMethod) -> SuiteCard:
    """Return the suite at the precision that a method was run with."""
    if measured.precision not in PRECISIONS:
        return card
    training = card.training.model_copy(update={"precision": measured.precision})
    return card.model_copy(update={"training": training})
