"""The cells and the matrix of a request, for tests of planning and running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.engine.cell import Cell
from compatbench.engine.matrix import Matrix, build_matrix
from compatbench.engine.missing import Missing
from compatbench.engine.plan import plan_cells
from compatbench.engine.request import Names, Request, make_request
from compatbench.method.registry import builtin_methods


def add_methods(path: Path) -> list[str]:
    """Make the methods of a file known, after forgetting those of other tests' files."""
    builtin_methods.cache_clear()
    return builtin_methods().add_file(path)


def request_of(suite: str | SuiteCard, methods: Names = "all", **selection: Any) -> Request:
    """Return a request for all seeds of a suite, unless the selection names some."""
    selection.setdefault("seeds", suite_cards.read(suite).seeds)
    return make_request(suite, methods, **selection)


def matrix_of(suite: str | SuiteCard, methods: Names = "all", **selection: Any) -> Matrix:
    return build_matrix(request_of(suite, methods, **selection))


def cells_of(
    suite: str | SuiteCard,
    methods: Names = "all",
    missing: Missing | None = None,
    **selection: Any,
) -> list[Cell]:
    return plan_cells(request_of(suite, methods, **selection), missing)
