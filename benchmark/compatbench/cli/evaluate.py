"""``compatbench evaluate``: a saved module on a new backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compatbench.data.cache_files import default_cache_folder
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.shots import count_shots, show_shots
from compatbench.engine.evaluate import Evaluation, Side, evaluate
from compatbench.engine.execute.device import resolve_device
from compatbench.method.registry import builtin_methods
from compatbench.pages.markdown import percent, signed


def evaluate_command(
    console: Console,
    *,
    module: Path,
    backbone: str,
    task: str | None,
    methods: str | None,
    device: str,
    aligned: bool,
    as_json: bool,
) -> None:
    """Prints how a module does on a backbone, beside its source and zero-shot.

    Raises:
        CompatbenchError: a wrong module, backbone, task or method file.
    """
    registry = builtin_methods()
    if methods is not None:
        registry.select(methods)
    cache = FeatureCache(default_cache_folder())
    found = evaluate(module, backbone, task, registry, cache, resolve_device(device), aligned)
    if as_json:
        # Not through the console, which would wrap and colour it.
        print(json.dumps(describe(found), indent=1, ensure_ascii=False))
        return
    fitted = found.fitted
    for line in (
        f"{registry.get(fitted.method).card.title}, {count_shots(fitted.shots)} of {fitted.task}, "
        f"seed {fitted.seed}{', aligned by words' if found.aligned else ''}",
        f"tested on {_images(found):,} images of {found.test_set}; top-1 in percent",
    ):
        console.print(line, highlight=False, markup=False)
    console.print(_table(found))
    console.print(_verdict(found), highlight=False, soft_wrap=True)


def describe(found: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON values; accuracies, gains and flips in percent of the images."""
    fitted = found.fitted
    return {
        "method": fitted.method,
        "task": fitted.task,
        "shots": show_shots(fitted.shots),
        "seed": fitted.seed,
        "test_set": found.test_set,
        "images": _images(found),
        "aligned": found.aligned,
        "status": "ok" if found.target else "not transferable",
        "reason": found.reason,
        "source": _describe_side(found.source)
        if found.source
        else {"backbone": found.fitted.source},
        "target": _describe_side(found.target) if found.target else {"backbone": found.backbone},
        "h": found.h,
        "negative_flips": found.negative_flips,
        "positive_flips": found.positive_flips,
    }


def _images(found: Evaluation) -> int:
    side = found.source or found.target
    return 0 if side is None else len(side.right)


def _describe_side(side: Side) -> dict[str, Any]:
    return {
        "backbone": side.backbone,
        "correct": int(side.right.sum()),
        "zero_shot_correct": int(side.zero_shot.sum()),
        "accuracy": side.accuracy,
        "gain": side.gain,
    }


def _table(found: Evaluation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column(f"{found.fitted.source} (source)", justify="right")
    table.add_column(found.backbone, justify="right")
    sides = [found.source, found.target]
    rows = {
        "with the module": [percent(side and side.accuracy) for side in sides],
        "its zero-shot": [percent(side and side.accuracy - side.gain) for side in sides],
        "gain": [signed(side and side.gain) for side in sides],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _verdict(found: Evaluation) -> str:
    if found.target is None:
        return f"[yellow]not transferable[/]: {escape(found.reason)}"
    flips = f"{escape(found.fitted.source)} is not here, so flips and H are not known."
    if found.source is not None:
        flips = (
            f"{percent(found.negative_flips)} % of the images were right before and are wrong "
            f"now, {percent(found.positive_flips)} % the reverse; H is {percent(found.h)}."
        )
    gain = found.target.gain
    if gain > 0:
        return f"The module [green]still helps[/]: {signed(gain)} over zero-shot. {flips}"
    word = "no better than" if gain == 0 else "worse than"
    return f"The module is [yellow]{word} zero-shot[/] on {escape(found.backbone)}. {flips}"
