"""``compatbench run`` and ``compatbench plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from compatbench.cli.options import (
    DataRootOption,
    DeviceOption,
    ExecutorName,
    MethodsOption,
    OfflineOption,
    OutOption,
    Precision,
    SeedsOption,
    ShardOption,
    ShotsFileOption,
    ShotsOption,
    SuiteOption,
    TasksOption,
    TransfersOption,
    TrustPickleOption,
    read_names,
    read_seconds,
    read_seeds_option,
    read_shots_option,
)
from compatbench.cli.tables import plain_table, print_frame, print_line

if TYPE_CHECKING:
    from compatbench.engine.plan import Plan

MANY_FAILURES = 10
console = Console()


def run(
    suite: SuiteOption = "mini",
    methods: MethodsOption = "all",
    tasks: TasksOption = "all",
    seeds: SeedsOption = None,
    shots: ShotsOption = None,
    transfers: TransfersOption = None,
    out: OutOption = Path(),
    data_root: DataRootOption = None,
    shots_file: ShotsFileOption = None,
    skip_missing: Annotated[
        bool,
        typer.Option(
            "--skip-missing",
            help="Run what is here, and leave out cells whose images or weights are not.",
        ),
    ] = False,
    executor: Annotated[
        ExecutorName,
        typer.Option(
            "--executor",
            help="Where cells run: in processes on this machine, or on a Ray cluster, which needs "
            "compatbench\\[ray].",
        ),
    ] = ExecutorName.local,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="The Ray cluster; 'auto' is the one that this machine belongs to.",
            show_default="RAY_ADDRESS, or this machine alone",
        ),
    ] = None,
    gpus_per_cell: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-cell",
            min=0,
            help="GPUs of each worker on Ray; with 0.25, four share one.",
            show_default="1; none with --device cpu",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Workers.",
            show_default="one per core; 1 on a GPU; on Ray, all that fit",
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each worker.")] = 1,
    device: DeviceOption = "auto",
    memory_budget: Annotated[
        str | None,
        typer.Option(
            "--memory-budget",
            help="Most memory for the activations of each worker's text encoder, such as '2G'. "
            "Less is slower, never different.",
            show_default="half of what is free",
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            "--precision",
            help="What the frozen towers compute in; modules are trained in float32 always. "
            "Another precision is another set of cells, in place of the first in results/.",
            show_default="the suite's",
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="TIME",
            help="End an attempt at a cell that takes longer, such as '90s' or '10m'; the encoding "
            "of its images does not count. It becomes a failed row, and the others go on.",
        ),
    ] = None,
    retry: Annotated[
        str,
        typer.Option(
            "--retry",
            metavar="KINDS",
            help="Try a cell again after these failures: 'oom', 'killed', 'timeout', 'error', each "
            "once or as often as it says: 'oom,killed:3'.",
        ),
    ] = "",
    shard: ShardOption = None,
    offline: OfflineOption = False,
    trust_pickle: TrustPickleOption = False,
) -> None:
    """Run a suite and write results/ and leaderboard.md.

    Finished cells are never run again: stop at any time, and the same command goes on. The first
    seed of all methods comes first, so that a ranking stands early and gets sharper. Several
    runs may share a folder, on one machine or on many: each cell is run by one of them.
    """
    from compatbench.cli.interrupt import stoppable

    with stoppable():
        numbers = read_seeds_option(seeds), read_shots_option(shots)
        _say_loading()
        from compatbench import api
        from compatbench.cli.progress import RunProgress
        from compatbench.engine.execute.shards import Shard
        from compatbench.engine.failures import parse_retry
        from compatbench.engine.run import Compute
        from compatbench.files.sizes import parse_bytes

        progress = RunProgress(console, out)

        def on_start(plan: Plan, workers: int) -> None:
            _warn_of_broken(plan)
            _print_missing(plan)
            print_line(console, _summary(plan, workers))
            progress.start(plan, workers)

        with progress:
            results = api.run(
                suite,
                methods,
                tasks=tasks,
                seeds=numbers[0],
                shots=numbers[1],
                transfers=read_names(transfers),
                out=out,
                precision=precision.value if precision else None,
                shots_files=shots_file or (),
                skip_missing=skip_missing,
                shard=None if shard is None else Shard.parse(shard),
                compute=Compute(
                    executor=executor.value,
                    device=device,
                    jobs=jobs,
                    threads=threads,
                    memory_budget=None if memory_budget is None else parse_bytes(memory_budget),
                    timeout=read_seconds("--timeout", timeout),
                    retry=parse_retry(retry),
                    address=address,
                    gpus_per_cell=gpus_per_cell,
                ),
                on_start=on_start,
                on_event=progress.on_event,
            )
        plan = progress.plan
        assert plan is not None
        _print_results(plan, out)
        for cell, error in results.failures[:MANY_FAILURES]:
            print_line(console, f"[red]failed[/] {escape(str(cell))}: {escape(error)}")
        if results.failures:
            count = f"{len(results.failures)} of {len(plan.to_do)} cells failed"
            print_line(console, f"{count}; the same command tries them again")
            raise typer.Exit(1)


def plan(
    suite: SuiteOption = "mini",
    methods: MethodsOption = "all",
    tasks: TasksOption = "all",
    seeds: SeedsOption = None,
    shots: ShotsOption = None,
    transfers: TransfersOption = None,
    out: OutOption = Path(),
    data_root: DataRootOption = None,
    shots_file: ShotsFileOption = None,
    device: DeviceOption = "auto",
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Workers, for the estimate of time.")
    ] = None,
    shard: ShardOption = None,
) -> None:
    """Show what 'run' would do: cells to do and done, what is missing, and what it costs.

    Nothing is fetched and nothing is written. Times are counted from the cards, the models'
    sizes and this machine's speed now, or scaled to what finished cells took.
    """
    numbers = read_seeds_option(seeds), read_shots_option(shots)
    _say_loading()
    from compatbench import api
    from compatbench.cli.tables import format_seconds
    from compatbench.engine.execute.device import count_cores, resolve_device
    from compatbench.engine.execute.shards import Shard

    place = resolve_device(device)
    found = api.plan(
        suite,
        methods,
        tasks=tasks,
        seeds=numbers[0],
        shots=numbers[1],
        transfers=read_names(transfers),
        out=out,
        shots_files=shots_file or (),
        shard=None if shard is None else Shard.parse(shard),
    )
    _warn_of_broken(found)
    workers = jobs or (count_cores() if place == "cpu" else 1)
    frame = found.frame
    if (frame["transfer"] == "copied").all():
        frame = frame.drop(columns="transfer")
    if not frame["missing"].any():
        frame = frame.drop(columns="missing")
    seconds = frame.pop("seconds") / workers
    frame["about"] = [format_seconds(each) if each else "" for each in seconds]
    print_frame(console, frame)
    if found.to_do or found.missing:
        _print_costs(found, place)
    print_line(console, _summary(found, workers))
    _print_missing(found)
    if found.missing:
        doctor = f"compatbench doctor --suite {suite}"
        console.print(f"'{doctor}' shows more, and what to do", highlight=False)


def _say_loading() -> None:
    """Says at once that something happens, for libraries take seconds to load."""
    if console.is_terminal:
        console.print("reading the suite and the methods ...", style="dim", end="\r")


def _print_costs(plan: Plan, device: str) -> None:
    """Prints images, disk and memory of the whole selection, what is missing included."""
    from compatbench.cli.tables import format_seconds
    from compatbench.engine.costs import count_costs, measure_rate
    from compatbench.files.sizes import format_bytes

    costs, rate = count_costs(plan.matrix), measure_rate(device)
    table = plain_table()
    for column in ("cost of all cells", "", "how"):
        table.add_column(column, overflow="fold")
    if plan.suite.retrained:
        cells = f"of {len(plan.matrix.places):,} cells: modules retrained, to compare with"
        table.add_row("fits on targets", f"{plan.matrix.retrained:,}", cells)
    speed = f"at {rate / 1e9:,.0f} GFLOP/s, a matrix product on {device} just now"
    table.add_row("images encoded", f"{costs.images:,}", "counted: splits, draws and views")
    table.add_row("encoding", format_seconds(costs.encode_flops / rate), f"counted; {speed}")
    table.add_row("features on disk", format_bytes(costs.features_bytes), "counted: float32")
    where = "GPU memory" if device.startswith("cuda") else "memory"
    table.add_row(
        f"{where} of a worker",
        format_bytes(costs.memory_bytes),
        "counted: weights and a batch of images; training adds at most --memory-budget",
    )
    console.print(table)
    if costs.unknown:
        names = ", ".join(costs.unknown)
        print_line(console, f"not counted: {names}, whose sizes are known when they are loaded")


def _print_missing(plan: Plan) -> None:
    """What is not here, and why, one line each."""
    missing = plan.missing
    for kind, reasons in (("images", missing.test_sets), ("weights", missing.backbones)):
        for name, why in reasons.items():
            print_line(console, f"[yellow]missing[/] {kind} of {escape(name)}: {escape(why)}")


def _summary(plan: Plan, workers: int) -> str:
    """One line: what the suite is, and how much of it is left."""
    from compatbench.cli.tables import format_seconds

    left, mine, total = len(plan.to_do), len(plan.mine), plan.total
    what = f" of {len(plan.planned):,} in this shard" if plan.shard is not None else ""
    parts = [f"[bold]{plan.suite.name}[/]: {total:,} cell{'s' if total != 1 else ''}{what}"]
    if not left and total == mine:
        return f"{parts[0]}, all done"
    parts.append(f"{mine - left:,} done")
    if total > mine:
        parts.append(f"{total - mine:,} without images or weights")
    parts.append(f"{left:,} to do")
    if workers and left + total - mine:
        seconds = format_seconds(plan.seconds / workers)
        parts.append(f"about {seconds} with {workers} worker{'s' if workers > 1 else ''}")
    return ", ".join(parts)


def _print_results(plan: Plan, out: Path) -> None:
    """The ranking of what was asked for, and where everything was written."""
    from compatbench.cli.progress import restriction_of
    from compatbench.pages.suite_page import read_suite_page
    from compatbench.pages.terminal import print_ranking

    suite = plan.suite
    print_ranking(console, read_suite_page(suite, out).restrict(**restriction_of(plan)))
    written = f"results in {out / 'results' / suite.name}/, modules in {out / 'runs' / 'modules'}/"
    if suite.publish:
        written = f"{out / 'leaderboard.md'}, {written}"
    print_line(console, f"wrote {written}")


def _warn_of_broken(plan: Plan) -> None:
    for name, why in plan.matrix.registry.broken.items():
        cause = f"method '{escape(name)}', which cannot be loaded: {escape(why)}"
        print_line(console, f"[yellow]left out[/] {cause}")
