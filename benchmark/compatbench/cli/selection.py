"""The cells that a command line names, and what is missing of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compatbench.backbone.load import is_planning
from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.data.draws import ShotsFiles, read_draws
from compatbench.engine.collect import mean_seconds
from compatbench.engine.configs import select_methods
from compatbench.engine.execute.order import estimate_cells
from compatbench.engine.execute.shards import Shard, agree_on_means, divide
from compatbench.engine.missing import Missing, fetch_missing, find_missing
from compatbench.engine.plan import PlannedCell, count_cells, plan, plan_cells
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.method.registry import MethodRegistry, builtin_methods


@dataclass(frozen=True)
class Selection:
    """The cells that a command line names, and what the store holds of them.

    Attributes:
        counts: cells by method, with those whose images or weights are missing; of a shard,
            its own.
        missing: what is not here.
        shard: keys of the cells that this job of several has to run; None is all.
    """

    suite: SuiteCard
    registry: MethodRegistry
    methods: list[str]
    planned: list[PlannedCell]
    store: RunStore
    files: ShotsFiles
    counts: Counter[str]
    missing: Missing
    shard: frozenset[str] | None = None

    @property
    def mine(self) -> list[PlannedCell]:
        """The cells of this job: those of its shard, or all."""
        return [i for i in self.planned if self.shard is None or i.cell.key in self.shard]

    @property
    def to_do(self) -> list[PlannedCell]:
        return [item for item in self.mine if not item.done]


def select(
    suite: str,
    methods: str,
    tasks: str,
    seeds: Sequence[int] | None,
    shots: Sequence[int] | None,
    out: Path,
    precision: str | None = None,
    files: Sequence[Path] = (),
    skip_missing: bool = False,
) -> Selection:
    """Reads the suite and plans its cells.

    Args:
        files: with draws that are given and not made here.
        skip_missing: leave out cells whose images or weights are not here.

    Raises:
        CompatbenchError: an unknown name, a broken card, method or shots file, an empty
            selection, a shots file that serves no cell; or something is missing and not
            to be skipped.
    """
    card = suite_cards.read(suite)
    if precision is not None:
        training = card.training.model_copy(update={"precision": precision})
        card = card.model_copy(update={"training": training})
    registry = builtin_methods()
    chosen = select_methods(card, registry, methods)
    if not chosen:
        raise CompatbenchError(f"--methods '{methods}' leaves no method")
    draws = read_draws(files)
    counts = count_cells(card, registry, chosen, tasks, seeds, shots)
    if not counts:
        raise CompatbenchError(f"--tasks '{tasks}' leaves no cell of suite '{card.name}'")
    missing = find_missing(card, tasks)
    if missing.backbones and not is_planning() and (skip_missing or not missing.test_sets):
        missing = fetch_missing(missing)
    if missing and not skip_missing:
        raise CompatbenchError(_refusal(card, suite, missing))
    cells = plan_cells(card, registry, chosen, tasks, seeds, shots, draws, missing)
    served = {cell.shots_file for cell in cells}
    if unused := [file for file in draws.values() if file not in served]:
        raise CompatbenchError(
            f"--shots-file '{unused[0]}': no cell to fit has its task, shots and seed; choose them "
            "with --tasks, --shots and --seeds"
        )
    store = RunStore(out / "runs")
    planned = plan(cells, store)
    return Selection(card, registry, chosen, planned, store, draws, counts, missing)


def take_shard(selection: Selection, shard: Shard | None, *, keep: bool = True) -> Selection:
    """The selection with the cells of one shard to run.

    Args:
        keep: whether the store notes how the cells were divided, so that other jobs agree.

    Raises:
        CompatbenchError: the store cannot be written.
    """
    if shard is None:
        return selection
    cells = [item.cell for item in selection.planned]
    means = mean_seconds(selection.planned)
    means = agree_on_means(selection.store, cells, shard.count, means, keep=keep)
    seconds = estimate_cells(selection.suite, selection.registry, cells, means)
    mine = divide(cells, seconds, shard.count)[shard.index - 1]
    counts = Counter(cell.name for cell in mine)
    return replace(selection, counts=counts, shard=frozenset(cell.key for cell in mine))


def _refusal(card: SuiteCard, suite: str, missing: Missing) -> str:
    """One line for a suite that lacks images or weights; with the first reason."""
    reasons = [*missing.test_sets.values(), *missing.backbones.values()]
    why = f": {reasons[0]}" if len(reasons) == 1 else f", for want of {missing}: {reasons[0]}"
    return (
        f"suite '{card.name}' cannot run{why}; 'compatbench doctor --suite {suite}' tells what to "
        "do, and --skip-missing runs what is here"
    )
