"""What a suite costs, as 'plan' shows it: each figure with how it was come by."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from compatbench.cli.progress import format_seconds
from compatbench.cli.selection import Selection
from compatbench.engine.costs import count_costs, measure_rate
from compatbench.engine.plan import count_retrained
from compatbench.files.sizes import format_bytes


def print_costs(
    console: Console,
    selection: Selection,
    tasks: str,
    seeds: Sequence[int] | None,
    shots: Sequence[int] | None,
    device: str,
) -> None:
    """Prints time, disk and memory of the whole selection, what is missing included."""
    suite, registry = selection.suite, selection.registry
    costs = count_costs(suite, registry, selection.methods, tasks, seeds, shots)
    rate = measure_rate(device)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("cost of all cells", "", "how"):
        table.add_column(column, overflow="fold")
    if suite.retrained:
        retrained = count_retrained(suite, registry, selection.methods, tasks, seeds, shots)
        how = f"of {selection.counts.total():,} cells: modules retrained, to tell what is kept"
        table.add_row("fits on targets", f"{retrained:,}", how)
    table.add_row("images encoded", f"{costs.images:,}", "counted: splits, draws and views")
    table.add_row(
        "encoding", format_seconds(costs.encode_flops / rate), f"counted; {_speed(rate, device)}"
    )
    table.add_row(
        "prompt training",
        format_seconds(costs.fit_flops / rate),
        f"counted: {costs.counted_fits:,} fits through the text tower; same rate",
    )
    table.add_row("features on disk", format_bytes(costs.features_bytes), "counted: float32")
    table.add_row(
        "modules, records",
        *_files(selection),
    )
    where = "GPU memory" if device.startswith("cuda") else "memory"
    table.add_row(
        f"{where} of a worker",
        format_bytes(costs.memory_bytes),
        "counted: weights and a batch of images; training adds at most --memory-budget",
    )
    console.print(table)
    if costs.unknown:
        console.print(
            f"not counted: {', '.join(costs.unknown)}, whose sizes are known when they are loaded",
            highlight=False,
            soft_wrap=True,
        )


def _speed(rate: float, device: str) -> str:
    return f"at {rate / 1e9:,.0f} GFLOP/s, a matrix product on {device} just now"


def _files(selection: Selection) -> tuple[str, str]:
    """Bytes of modules and records, from the cells of each method that are finished."""
    sizes: dict[str, list[int]] = {}
    for item in selection.planned:
        if item.record is not None and item.record.status == "ok":
            size = item.record.module_bytes + len(item.record.model_dump_json())
            sizes.setdefault(item.cell.name, []).append(size)
    if not sizes:
        return "unknown", "measured once a cell has run: try --tasks and --seeds of one"
    total = sum(selection.counts[name] * sum(found) / len(found) for name, found in sizes.items())
    methods = f"{len(sizes)} of {len(selection.methods)} methods"
    return format_bytes(total), f"measured: finished cells of {methods}"
