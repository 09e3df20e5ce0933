"""``compatbench doctor``: what is there, what lacks, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from compatbench.backbone import load_backbone
from compatbench.backbone.inspect import BackboneReport, inspect_backbone
from compatbench.backbone.load import planning
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import select_names, suite_cards, task_cards
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.image_check import TaskReport, inspect_task
from compatbench.data.task import load_task
from compatbench.doctor.machine import describe_machine
from compatbench.doctor.verify import Comparison, verify_zero_shot
from compatbench.engine.execute.device import resolve_device
from compatbench.engine.missing import suite_backbones, suite_test_sets
from compatbench.errors import CompatbenchError

MARKS = {"found": "[green]found[/]", "missing": "[yellow]missing[/]", "wrong": "[red]wrong[/]"}


def doctor_command(
    console: Console,
    *,
    suite: str | None,
    tasks: Sequence[str] | None,
    backbones: Sequence[str] | None,
    verify: bool,
    device: str,
) -> None:
    """Prints the state of datasets, backbones and the machine.

    Raises:
        CompatbenchError: an unknown suite or task, or a broken card.
        typer.Exit: with 1, if something is missing or wrong.
    """
    if suite is None and not tasks and not backbones:
        suite = "mini"
    test_sets = select_names(tasks, task_cards.names(), "task") if tasks else []
    models = list(backbones or [])
    if suite is not None:
        card = suite_cards.read(suite)
        test_sets += suite_test_sets(card)
        models += suite_backbones(card)
    with planning():
        datasets = [_show_task(console, name) for name in dict.fromkeys(test_sets)]
        weights = [_show_backbone(console, name) for name in dict.fromkeys(models)]
        console.print("[bold]Machine[/]")
        for what, value in describe_machine().items():
            _line(console, f"  {what:<16}{escape(value)}")
        states = [report.state for report in (*datasets, *weights)]
        compared = _verify(console, datasets, weights, resolve_device(device)) if verify else []
    bad = [state for state in states if state != "found"]
    off = sum(one.failed for one in compared)
    what = f"suite '{suite}'" if suite is not None else "what was asked for"
    if not bad and not off:
        _line(console, f"[green]Ready[/]: {escape(what)} can run here.")
        return
    parts = [f"{len(bad)} of {len(states)} parts are missing or wrong"] if bad else []
    parts += [f"{off} figures disagree with what is published"] if off else []
    verdict = "cannot run here as it is" if bad else "can run, but must not be trusted yet"
    _line(console, f"[red]Not ready[/]: {escape(what)} {verdict}; {', and '.join(parts)}.")
    raise typer.Exit(1)


def _show_task(console: Console, name: str) -> TaskReport:
    report = inspect_task(name)
    counts = ", ".join(
        f"{split} {report.found[split]:,}"
        + ("" if report.found[split] == count else f" (of {count:,})")
        for split, count in report.expected.items()
        if split in report.found
    )
    _line(console, f"{MARKS[report.state]} [bold]{escape(name)}[/] {counts}".rstrip())
    if report.state == "found":
        order = {True: "as on the card", None: "not told by anything on the disk"}
        facts = [f"class order {order[report.class_order or None]}"]
    else:
        wanted = ", ".join(f"{split} {count:,}" for split, count in report.expected.items())
        facts = [escape(report.message), f"it should have {wanted}", f"fix: {escape(report.fix)}"]
        if report.class_order is False:
            facts.insert(1, "the classes are in another order than the card's")
    if report.folder is not None:
        facts.insert(0, escape(str(report.folder)))
    for fact in facts:
        _line(console, f"  {fact}")
    return report


def _show_backbone(console: Console, name: str) -> BackboneReport:
    report = inspect_backbone(name)
    title = f" {escape(report.title)}" if report.title != name else ""
    _line(console, f"{MARKS[report.state]} [bold]{escape(name)}[/]{title}")
    if report.path is not None and report.state == "found":
        _line(console, f"  {escape(str(report.path))}")
    if report.embed_dim is not None:
        right = {True: "as trained", False: "NOT as trained", None: "nobody can know if as trained"}
        millions = f"{report.parameters / 1e6:,.1f} M parameters, " if report.parameters else ""
        _line(
            console,
            f"  {millions}token width {report.token_width}, embedding size {report.embed_dim}, "
            f"context {report.context_length}",
        )
        if report.activation:
            right_word = right[report.activation_right]
            _line(console, f"  activation {report.activation}, {right_word}")
    if report.preprocessing:
        _line(console, f"  {escape(_describe_preprocessing(report))}")
    if report.state != "found":
        _line(console, f"  {escape(report.message)}")
        if report.fix:
            _line(console, f"  fix: {escape(report.fix)}")
    return report


def _describe_preprocessing(report: BackboneReport) -> str:
    settings = report.preprocessing
    parts = [f"images {report.image_size} px"] if report.image_size else []
    for key in ("interpolation", "resize_mode"):
        if settings.get(key):
            parts.append(str(settings[key]))
    for key in ("mean", "std"):
        if settings.get(key):
            numbers = settings[key]
            values = numbers if isinstance(numbers, (list, tuple)) else [numbers]
            parts.append(f"{key} {' '.join(f'{float(value):.3f}' for value in values)}")
    return ", ".join(parts)


def _verify(
    console: Console,
    datasets: Sequence[TaskReport],
    weights: Sequence[BackboneReport],
    device: str,
) -> list[Comparison]:
    """Runs zero-shot on every pair that is here."""
    cache = FeatureCache(default_cache_folder())
    found: list[Comparison] = []
    console.print("[bold]Zero-shot[/], top-1 or mean per-class recall in percent")
    for model in (report for report in weights if report.state == "found"):
        backbone = load_backbone(model.name, device)
        for data in (report for report in datasets if report.state == "found"):
            try:
                compared = verify_zero_shot(backbone, load_task(data.name), cache)
            except CompatbenchError as error:
                _line(console, f"[red]failed[/] {escape(data.name)}: {escape(str(error))}")
                raise typer.Exit(1) from None
            for one in compared:
                _show_comparison(console, one)
            found += compared
    if not found:
        _line(console, "  no task and backbone are both here, so nothing was run")
    return found


def _show_comparison(console: Console, one: Comparison) -> None:
    where = f"{escape(one.task)} on {escape(one.backbone)}"
    if one.figure is None:
        _line(console, f"  {where}: {one.measured:.2f}; {one.reason}")
        return
    figure = one.figure
    metric = "top-1" if figure.metric == "top1" else "recall"
    word = {None: "[dim]not compared[/]", True: "[green]agrees[/]", False: "[red]disagrees[/]"}
    mark = "[yellow]differs[/]" if one.agrees is False and figure.loose else word[one.agrees]
    limit = f" (within {figure.tolerance:g})" if one.comparable else ""
    _line(
        console,
        f"  {where}: {metric} {one.measured:.2f}, published {figure.value:.2f} by {figure.source}: "
        f"{mark}{limit}; {one.reason}",
    )


def _line(console: Console, text: str) -> None:
    """One line; on a terminal it is wrapped, and what follows keeps its indent."""
    indent = len(text) - len(text.lstrip())
    if console.is_terminal and indent:
        console.print(Padding(Text.from_markup(text.strip()), (0, 0, 0, indent)))
    else:
        console.print(text, highlight=False, soft_wrap=True)
