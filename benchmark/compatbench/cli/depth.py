"""Runs the cells of ``compatbench analyze depth``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from compatbench.backbone import load_backbone
from compatbench.cli.progress import RunProgress
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import suite_cards
from compatbench.engine.execute.device import count_cores, resolve_device
from compatbench.engine.execute.local import run_cells
from compatbench.engine.execute.settings import Settings
from compatbench.engine.plan import plan
from compatbench.errors import CompatbenchError
from compatbench.studies.depth import (
    DepthReport,
    plan_depth,
    read_depth,
    store_of,
)
from compatbench.studies.depth_probe import RATES


def run_depth(
    console: Console,
    *,
    source: str,
    target: str,
    tasks: Sequence[str],
    suite: str,
    shots: int | None,
    seeds: Sequence[int] | None,
    steps: int,
    lr: float | None,
    out: Path,
    jobs: int | None,
    device: str,
) -> DepthReport:
    """Fits and measures what is not in the store yet, and reads the report.

    Raises:
        CompatbenchError: an unknown name, backbones that do not fit each other, a store that
            cannot be written, or cells that failed.
    """
    if source == target:
        raise CompatbenchError(f"'{source}' is both source and target; an upgrade needs two")
    card = suite_cards.read(suite)
    training = card.training.model_copy(update={"max_steps": steps})
    found = plan_depth(
        load_backbone(source),
        load_backbone(target),
        tasks,
        shots or max(card.shots),
        tuple(seeds or card.seeds),
        training,
        RATES if lr is None else (lr,),
    )
    store = store_of(out)
    left = [item.cell for item in plan(found.cells(), store) if not item.done]
    on = resolve_device(device)
    workers = jobs or (count_cores() if on == "cpu" else 1)
    if left:
        console.print(
            f"{len(found.cells())} fits, {len(left)} to do, kept in {store.folder}/",
            highlight=False,
            soft_wrap=True,
        )
        settings = Settings(store.folder, default_cache_folder(), on)
        with RunProgress(console, left, workers, {}) as progress:
            run_cells(left, settings, workers, progress.on_event)
    return read_depth(found, store)
