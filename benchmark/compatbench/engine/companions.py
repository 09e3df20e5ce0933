"""The cells of a run whose fits are made in one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from compatbench.engine.cell import Cell
from compatbench.engine.store import RunStore


class Companions:
    """Finds cells whose fits differ in seed, images and learning rate alone.

    Args:
        cells: of the run.
        most: fits in one batch.
    """

    def __init__(self, cells: Sequence[Cell] = (), most: int = 1) -> None:
        self._most = most
        self._alike: dict[str, list[Cell]] = {}
        for cell in cells if most > 1 else ():
            if not cell.training.mlp_drop:  # which draws, step by step
                self._alike.setdefault(_describe_kind(cell), []).append(cell)

    @contextmanager
    def claim(self, store: RunStore, cell: Cell) -> Iterator[list[Cell]]:
        """Cells to be fitted with a cell; no other worker fits them in the meantime."""
        with ExitStack() as locks:
            chosen: dict[str, Cell] = {}
            for other in self._alike.get(_describe_kind(cell), []):
                if len(chosen) + 1 == self._most:
                    break
                if other.fit_key not in {cell.fit_key, *chosen}:
                    is_free = locks.enter_context(store.lock_fit(other.fit_key, wait=False))
                    if is_free and store.read(other.fit_key) is None:
                        chosen[other.fit_key] = other
            yield [*chosen.values()]


def _describe_kind(cell: Cell) -> str:
    """What cells have in common whose fits may be in one batch."""
    config = cell.config | {"recipe": (cell.config.get("recipe") or {}) | {"lr": None}}
    kind = cell.method, cell.plugin, config, cell.task, cell.source, cell.shots, cell.training
    return repr(kind)
