"""``compatbench run`` and ``compatbench plan``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compatbench.cachefiles import default_cache_folder
from compatbench.cards import SuiteCard, suite_cards
from compatbench.cli.progress import RunProgress, estimate_seconds, format_seconds
from compatbench.errors import CompatbenchError
from compatbench.files import write_atomic
from compatbench.leaderboard.console import print_main_table
from compatbench.leaderboard.publish import LEADERBOARD, RESULTS, suite_page
from compatbench.method.registry import MethodRegistry, builtin_methods
from compatbench.run.collect import mean_seconds
from compatbench.run.executors import Event, Settings, run_cells
from compatbench.run.plan import PlannedCell, plan, plan_cells
from compatbench.run.publish import publish
from compatbench.run.store import RunStore
from compatbench.task.draws import ShotsFiles, read_draws

MANY_FAILURES = 10


@dataclass(frozen=True)
class Selection:
    """The cells that a command line names, and what the store holds of them."""

    suite: SuiteCard
    registry: MethodRegistry
    methods: list[str]
    planned: list[PlannedCell]
    store: RunStore
    files: ShotsFiles

    @property
    def to_do(self) -> list[PlannedCell]:
        return [item for item in self.planned if not item.done]


def select(
    suite: str,
    methods: str,
    tasks: str,
    seeds: Sequence[int] | None,
    shots: Sequence[int] | None,
    out: Path,
    precision: str | None = None,
    files: Sequence[Path] = (),
) -> Selection:
    """Reads the suite and plans its cells.

    Args:
        files: with draws that are given and not made here.

    Raises:
        CompatbenchError: an unknown name, a broken card, method or shots file, an empty
            selection, or a shots file that serves no cell.
    """
    card = suite_cards.read(suite)
    if precision is not None:
        training = card.training.model_copy(update={"precision": precision})
        card = card.model_copy(update={"training": training})
    registry = builtin_methods()
    chosen = registry.select(methods)
    if not chosen:
        raise CompatbenchError(f"--methods '{methods}' leaves no method")
    draws = read_draws(files)
    cells = plan_cells(card, registry, chosen, tasks, seeds, shots, draws)
    if not cells:
        raise CompatbenchError(f"--tasks '{tasks}' leaves no cell of suite '{card.name}'")
    served = {cell.shots_file for cell in cells}
    if unused := [file for file in draws.values() if file not in served]:
        raise CompatbenchError(
            f"--shots-file '{unused[0]}': no cell to fit has its task, shots and seed; choose them "
            "with --tasks, --shots and --seeds"
        )
    store = RunStore(out / "runs")
    return Selection(card, registry, chosen, plan(cells, store), store, draws)


def run_command(
    console: Console,
    *,
    suite: str,
    methods: str,
    tasks: str,
    seeds: Sequence[int] | None,
    shots: Sequence[int] | None,
    shots_files: Sequence[Path],
    out: Path,
    jobs: int | None,
    threads: int,
    device: str,
    precision: str | None,
    memory_budget: int | None,
) -> None:
    """Runs what is missing, publishes everything, prints the main table.

    Raises:
        CompatbenchError: broken input, or a folder that cannot be written.
        typer.Exit: with 1, if a cell failed.
    """
    selection = select(suite, methods, tasks, seeds, shots, out, precision, shots_files)
    _warn_of_broken(console, selection.registry)
    _check_writable(out)
    device = resolve_device(device)
    jobs = jobs or (_cores() if device == "cpu" else 1)
    to_do = selection.to_do
    console.print(_summary(selection, jobs), highlight=False, soft_wrap=True)
    settings = Settings(
        selection.store.folder, default_cache_folder(), device, threads, memory_budget
    )
    failures = _run_cells(console, selection, settings, jobs) if to_do else []
    planned = selection.planned
    done = plan([item.cell for item in planned], selection.store) if to_do else planned
    publish(selection.suite, selection.registry, done, out, selection.files)
    _print_table(console, selection.suite, out)
    if failures:
        for event in failures[:MANY_FAILURES]:
            console.print(
                f"[red]failed[/] {escape(str(event.cell))}: {escape(event.error)}",
                highlight=False,
                soft_wrap=True,
            )
        console.print(
            f"{len(failures)} of {len(to_do)} cells failed; the same command tries them again",
            highlight=False,
        )
        raise typer.Exit(1)


def _run_cells(
    console: Console, selection: Selection, settings: Settings, jobs: int
) -> list[Event]:
    cells = [item.cell for item in selection.to_do]
    progress = RunProgress(console, cells, jobs, mean_seconds(selection.planned))
    with progress:
        run_cells(cells, settings, jobs, progress.on_event)
    return progress.failures


def plan_command(
    console: Console,
    *,
    suite: str,
    methods: str,
    tasks: str,
    seeds: Sequence[int] | None,
    shots: Sequence[int] | None,
    shots_files: Sequence[Path],
    out: Path,
) -> None:
    """Prints, per method, the cells that are done, failed and to do.

    Raises:
        CompatbenchError: broken input.
    """
    selection = select(suite, methods, tasks, seeds, shots, out, files=shots_files)
    _warn_of_broken(console, selection.registry)
    means = mean_seconds(selection.planned)
    jobs = _cores()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("method")
    for column in ("cells", "done", "failed", "to do", "about"):
        table.add_column(column, justify="right")
    for name in selection.methods:
        mine = [item for item in selection.planned if item.cell.method == name]
        left = [item.cell for item in mine if not item.done]
        time = format_seconds(estimate_seconds(left, means, jobs)) if left else ""
        counts = (len(mine), len(mine) - len(left), sum(item.failed for item in mine), len(left))
        table.add_row(name, *map(str, counts), time)
    console.print(table)
    console.print(_summary(selection, jobs), highlight=False, soft_wrap=True)


def _summary(selection: Selection, jobs: int) -> str:
    """One line: what the suite is, and how much of it is left."""
    count = Counter(item.done for item in selection.planned)
    left = [item.cell for item in selection.to_do]
    upgrades = "; ".join(" → ".join(upgrade) for upgrade in selection.suite.upgrades)
    head = f"[bold]{selection.suite.name}[/] ({upgrades}): {len(selection.planned)} cells"
    if not left:
        return f"{head}, all done"
    seconds = estimate_seconds(left, mean_seconds(selection.planned), jobs)
    return (
        f"{head}, {count[True]} done, {len(left)} to do, "
        f"about {format_seconds(seconds)} with {jobs} worker{'s' if jobs > 1 else ''}"
    )


def _print_table(console: Console, suite: SuiteCard, out: Path) -> None:
    print_main_table(console, suite_page(suite, out))
    if suite.publish:
        console.print(f"wrote {out / LEADERBOARD} and {out / RESULTS / suite.name}/")


def _warn_of_broken(console: Console, registry: MethodRegistry) -> None:
    for name, why in registry.broken.items():
        console.print(
            f"[yellow]left out[/] method '{escape(name)}', which cannot be loaded: {escape(why)}",
            highlight=False,
            soft_wrap=True,
        )


def _check_writable(out: Path) -> None:
    """Finds out before the work, not after it, that results cannot be written.

    Raises:
        CompatbenchError: a folder cannot be written.
    """
    for folder in (out, out / "runs", out / RESULTS):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CompatbenchError(f"cannot write {folder}: {error.strerror}") from None
        probe = folder / f".probe-{os.getpid()}"
        write_atomic(probe, b"")
        probe.unlink()


def resolve_device(device: str) -> str:
    """The device that a name means; ``auto`` is a GPU if there is one.

    Raises:
        CompatbenchError: it cannot be used here.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CompatbenchError(
            f"--device '{device}' cannot be used here: {str(error).splitlines()[0]}"
        ) from None
    return device


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
