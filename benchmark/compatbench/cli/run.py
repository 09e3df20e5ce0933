"""``compatbench run`` and ``compatbench plan``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compatbench.backbone.load import planning, read_backbone
from compatbench.cli.costs import print_costs
from compatbench.cli.progress import RunProgress, estimate_seconds, format_seconds
from compatbench.cli.selection import Selection, select, take_shard
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import SuiteCard
from compatbench.engine.cell import FailureKind
from compatbench.engine.collect import mean_seconds
from compatbench.engine.execute.device import count_cores, resolve_device
from compatbench.engine.execute.executors import (
    Executor,
    ExecutorOptions,
    check_device,
    open_executor,
)
from compatbench.engine.execute.order import estimate_cells
from compatbench.engine.execute.settings import Event, Settings
from compatbench.engine.execute.shards import Shard
from compatbench.engine.locks import publishing
from compatbench.engine.missing import suite_backbones
from compatbench.engine.plan import plan
from compatbench.engine.publish import publish
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import remove_remains
from compatbench.method.registry import MethodRegistry
from compatbench.pages.console import print_main_table
from compatbench.pages.publish import LEADERBOARD, RESULTS, suite_page
from compatbench.results.store import read_results

MANY_FAILURES = 10


def run_command(
    console: Console,
    *,
    suite: str,
    methods: str,
    tasks: str,
    seeds: Sequence[int] | None,
    shots: Sequence[int] | None,
    shots_files: Sequence[Path],
    skip_missing: bool,
    out: Path,
    executor: ExecutorOptions,
    threads: int,
    device: str,
    precision: str | None,
    memory_budget: int | None,
    timeout: float | None,
    retry: Mapping[FailureKind, int],
    shard: Shard | None,
) -> None:
    """Runs what is missing, publishes everything, prints the main table.

    Of several shards in one store, each publishes what all have measured until then.

    Raises:
        CompatbenchError: broken input, or a folder that cannot be written.
        typer.Exit: with 1, if a cell failed.
    """
    check_device(executor, device)
    selection = select(
        suite, methods, tasks, seeds, shots, out, precision, shots_files, skip_missing
    )
    _warn_of_broken(console, selection.registry)
    if selection.missing:
        _print_missing(console, selection)
    if not selection.planned:
        raise CompatbenchError(
            f"nothing of suite '{selection.suite.name}' can run here; see 'compatbench doctor "
            f"--suite {suite}'"
        )
    _check_writable(out)
    _check_readable(out / RESULTS)
    selection = take_shard(selection, shard)
    to_do = selection.to_do
    failures: list[Event] = []
    if to_do:
        with open_executor(executor, device, threads) as place:
            console.print(_summary(selection, place.jobs), highlight=False, soft_wrap=True)
            settings = Settings(
                store=selection.store.folder,
                cache=default_cache_folder(),
                device=place.device,
                threads=threads,
                memory_budget=memory_budget,
                timeout=timeout,
                retry=retry,
            )
            failures = _run_cells(console, selection, settings, place)
    else:
        console.print(_summary(selection, jobs=1), highlight=False, soft_wrap=True)
    with publishing(selection.store):
        for folder in (out, out / RESULTS / selection.suite.name):
            remove_remains(folder)
        planned = plan([item.cell for item in selection.planned], selection.store)
        publish(selection.suite, selection.registry, planned, out, selection.files)
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
    console: Console, selection: Selection, settings: Settings, place: Executor
) -> list[Event]:
    cells = [item.cell for item in selection.to_do]
    means = mean_seconds(selection.planned)
    progress = RunProgress(console, cells, place.jobs, means)
    estimates = estimate_cells(selection.suite, selection.registry, cells, means)
    seconds = {cell.key: estimate for cell, estimate in zip(cells, estimates, strict=True)}
    with progress:
        place.run(cells, settings, lambda cell: seconds[cell.key], progress.on_event)
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
    device: str,
    shard: Shard | None,
) -> None:
    """Prints, per method, the cells that are done, failed and to do.

    Raises:
        CompatbenchError: broken input.
    """
    device = resolve_device(device)
    with planning():
        selection = select(
            suite, methods, tasks, seeds, shots, out, files=shots_files, skip_missing=True
        )
    selection = take_shard(selection, shard, keep=False)
    _warn_of_broken(console, selection.registry)
    means = mean_seconds(selection.planned)
    jobs = count_cores()
    blocked = selection.counts.total() > len(selection.mine)
    columns = ["cells", "done", "failed", "to do", *["missing"] * blocked, "about"]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("method")
    for column in columns:
        table.add_column(column, justify="right")
    for name in selection.methods:
        mine = [item for item in selection.mine if item.cell.name == name]
        left = [item.cell for item in mine if not item.done]
        time = format_seconds(estimate_seconds(left, means, jobs)) if left and name in means else ""
        cells = selection.counts[name]
        counts = [cells, len(mine) - len(left), sum(item.failed for item in mine), len(left)]
        counts += [cells - len(mine)] * blocked
        table.add_row(name, *map(str, counts), time)
    console.print(table)
    console.print(_summary(selection, jobs), highlight=False, soft_wrap=True)
    if shard is None and (selection.to_do or blocked):
        print_costs(console, selection, tasks, seeds, shots, device)
    if selection.missing:
        _print_missing(console, selection)
        doctor = f"compatbench doctor --suite {suite}"
        console.print(f"'{doctor}' tells more, and what to do", highlight=False)


def _print_missing(console: Console, selection: Selection) -> None:
    """What is not here, and why, one line each."""
    missing = selection.missing
    for kind, reasons in (("images", missing.test_sets), ("weights", missing.backbones)):
        for name, why in reasons.items():
            console.print(
                f"[yellow]missing[/] {kind} of {escape(name)}: {escape(why)}",
                highlight=False,
                soft_wrap=True,
            )


def _summary(selection: Selection, jobs: int) -> str:
    """One line: what the suite is, and how much of it is left."""
    suite = selection.suite
    left = [item.cell for item in selection.to_do]
    upgrades = "; ".join(" → ".join(upgrade) for upgrade in suite.upgrades)
    total = selection.counts.total()
    mine = selection.mine
    what = f" of {len(selection.planned):,} in this shard" if selection.shard is not None else ""
    parts = [f"[bold]{suite.name}[/] ({upgrades}): {total:,} cells{what}"]
    if not left and total == len(mine):
        return f"{parts[0]}, all done"
    parts.append(f"{len(mine) - len(left):,} done")
    if total > len(mine):
        parts.append(f"{total - len(mine):,} lack images or weights")
    parts.append(f"{len(left):,} to do")
    means = mean_seconds(selection.planned)
    embedded = all(read_backbone(name).weights for name in suite_backbones(suite))
    if left and (means or embedded):
        seconds = estimate_seconds(left, means, jobs)
        workers = f"{jobs} worker{'s' if jobs > 1 else ''}"
        parts.append(f"about {format_seconds(seconds)} with {workers}")
    return ", ".join(parts)


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
            with TemporaryFile(dir=folder) as probe:
                probe.write(b"probe")
        except OSError as error:
            raise CompatbenchError(f"cannot write {folder}: {error.strerror}") from None


def _check_readable(results: Path) -> None:
    """Finds out before the work, not after it, that no page can be made.

    Raises:
        CompatbenchError: a results file is broken, or of another version.
    """
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        read_results(folder)
