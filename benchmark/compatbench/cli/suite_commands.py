"""The commands that take a suite: run, plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from compatbench.cli.executors import Executor, RayOptions
from compatbench.cli.options import (
    DataRootOption,
    DeviceOption,
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
    TrustPickleOption,
    read_numbers,
    read_seconds,
    read_shots_option,
)
from compatbench.files.sizes import parse_bytes

console = Console()


def run(
    suite: SuiteOption = "mini",
    methods: MethodsOption = "all",
    tasks: TasksOption = "all",
    seeds: SeedsOption = None,
    shots: ShotsOption = None,
    out: OutOption = Path(),
    data_root: DataRootOption = None,
    shots_file: ShotsFileOption = None,
    skip_missing: Annotated[
        bool,
        typer.Option(
            "--skip-missing",
            help="Run what is here, and leave out what lacks its images or weights.",
        ),
    ] = False,
    executor: Annotated[
        Executor,
        typer.Option(
            "--executor",
            help="Where cells run: in processes on this machine, or on a Ray cluster, which needs "
            "compatbench\\[ray].",
        ),
    ] = Executor.local,
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

    Finished cells are never run again: stop at any time, and the same command goes on. Several
    runs may share a folder, on one machine or on many: each cell is run by one of them.
    """
    from compatbench.cli.stop import stoppable

    with stoppable():
        from compatbench.cli.run import run_command
        from compatbench.engine.execute.shards import Shard
        from compatbench.engine.failures import parse_retry

        run_command(
            console,
            suite=suite,
            methods=methods,
            tasks=tasks,
            seeds=read_numbers("--seeds", seeds, least=0),
            shots=read_shots_option(shots),
            shots_files=shots_file or (),
            skip_missing=skip_missing,
            out=out,
            executor=executor,
            on_ray=RayOptions(address, gpus_per_cell),
            jobs=jobs,
            threads=threads,
            device=device,
            precision=precision.value if precision else None,
            memory_budget=None if memory_budget is None else parse_bytes(memory_budget),
            timeout=read_seconds("--timeout", timeout),
            retry=parse_retry(retry),
            shard=None if shard is None else Shard.parse(shard),
        )


def plan(
    suite: SuiteOption = "mini",
    methods: MethodsOption = "all",
    tasks: TasksOption = "all",
    seeds: SeedsOption = None,
    shots: ShotsOption = None,
    out: OutOption = Path(),
    data_root: DataRootOption = None,
    shots_file: ShotsFileOption = None,
    device: DeviceOption = "auto",
    shard: ShardOption = None,
) -> None:
    """Show what 'run' would do: cells to do and done, what is missing, and what it costs.

    Nothing is fetched and nothing is written. The costs are counted from the cards and the
    models' sizes, or taken from what was measured before; the output says which.
    """
    from compatbench.cli.run import plan_command
    from compatbench.engine.execute.shards import Shard

    plan_command(
        console,
        suite=suite,
        methods=methods,
        tasks=tasks,
        seeds=read_numbers("--seeds", seeds, least=0),
        shots=read_shots_option(shots),
        shots_files=shots_file or (),
        out=out,
        device=device,
        shard=None if shard is None else Shard.parse(shard),
    )
