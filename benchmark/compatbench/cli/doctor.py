"""``compatbench doctor``: what is here, what is missing, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from compatbench.cli.options import (
    DataRootOption,
    DeviceOption,
    OutOption,
    TrustPickleOption,
    complete_backbones,
    complete_suites,
    complete_tasks,
)

if TYPE_CHECKING:
    from compatbench.backbone.backbone_report import BackboneReport
    from compatbench.data.task import TaskReport
    from compatbench.doctor.published import Comparison

console = Console()
MARKS = {"found": "[green]found[/]", "missing": "[yellow]missing[/]", "wrong": "[red]wrong[/]"}
AGREES = {None: "[dim]not compared[/]", True: "[green]agrees[/]", False: "[red]disagrees[/]"}
TRAINED = {True: "as trained", False: "NOT as trained", None: "unknown if as trained"}


def doctor(
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            help="Look at all that a suite needs: its name or a YAML file.",
            show_default="mini, if neither a task nor a backbone is given",
            autocompletion=complete_suites,
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            help="Look at a task's images: a name or a glob; may be repeated.",
            autocompletion=complete_tasks,
        ),
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            help="Look at a backbone: a card's name, MODEL/TAG, or a file; may be repeated.",
            autocompletion=complete_backbones,
        ),
    ] = None,
    out: OutOption = Path(),
    data_root: DataRootOption = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Also run zero-shot on every pair of a task and a backbone that are here, and "
            "compare it with published figures.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    trust_pickle: TrustPickleOption = False,
) -> None:
    """Tell whether a suite can run here, and what to do where it cannot.

    Shows, for every dataset, what is there, what is missing and the fix; for every backbone, its
    weights, activation, preprocessing and sizes; and the machine. Works offline and fetches
    nothing. Exits with 1 if something is missing or wrong.
    """
    from compatbench import api

    with console.status("") as status:
        found = api.diagnose(
            suite,
            task or (),
            backbone or (),
            out=out,
            verify=verify,
            device=device,
            progress=status.update,
        )
    for report in found.tasks:
        _show_task(report)
    for report in found.backbones:
        _show_backbone(report)
    _line("[bold]Machine[/]")
    for name, value in found.machine.items():
        _line(f"{name:<16}{escape(value)}", indent=True)
    if verify:
        _line("[bold]Zero-shot[/], top-1 or mean per-class recall in percent")
        for one in found.comparisons:
            _line(_describe_comparison(one), indent=True)
        if not found.comparisons:
            _line("no task and backbone are both here, so nothing was run", indent=True)
    what = f"suite '{found.suite}'" if found.suite else "what was asked for"
    if found.ready:
        _line(f"[green]Ready[/]: {escape(what)} can run here.")
        return
    bad, parts = len(found.unusable), []
    if bad:
        total = len(found.tasks) + len(found.backbones)
        parts.append(f"{bad} of {total} parts are missing or wrong")
    if found.disagreeing:
        parts.append(f"{len(found.disagreeing)} figures disagree with what is published")
    verdict = "cannot run here as it is" if bad else "can run, but must not be trusted yet"
    _line(f"[red]Not ready[/]: {escape(what)} {verdict}; {', and '.join(parts)}.")
    raise typer.Exit(1)


def _line(text: str, indent: bool = False) -> None:
    """One line; on a terminal it is wrapped, and what follows keeps its indent."""
    if console.is_terminal and indent:
        console.print(Padding(Text.from_markup(text), (0, 0, 0, 2)))
    else:
        console.print(f"{'  ' * indent}{text}", highlight=False, soft_wrap=True)


def _show_task(report: TaskReport) -> None:
    counts = ", ".join(
        f"{split} {report.found[split]:,}"
        + ("" if report.found[split] == count else f" (of {count:,})")
        for split, count in report.expected.items()
        if split in report.found
    )
    _line(f"{MARKS[report.state]} [bold]{escape(report.name)}[/] {counts}".rstrip())
    facts = [str(report.folder)] if report.folder is not None else []
    if report.state == "found":
        order = "as on the card" if report.class_order else "unknown: no file here says it"
        facts.append(f"class order {order}")
    else:
        wanted = ", ".join(f"{split} {count:,}" for split, count in report.expected.items())
        facts += [report.message, f"it should have {wanted}", f"fix: {report.fix}"]
        if report.class_order is False:
            facts.insert(-2, "the classes are in another order than the card's")
    for fact in facts:
        _line(escape(fact), indent=True)


def _show_backbone(report: BackboneReport) -> None:
    title = f" {escape(report.title)}" if report.title != report.name else ""
    _line(f"{MARKS[report.state]} [bold]{escape(report.name)}[/]{title}")
    facts = []
    if report.path is not None and report.state == "found":
        facts.append(str(report.path))
    if report.embed_dim is not None:
        millions = f"{report.parameters / 1e6:,.1f} M parameters, " if report.parameters else ""
        sizes = f"token width {report.token_width}, embedding size {report.embed_dim}"
        facts.append(f"{millions}{sizes}, context {report.context_length}")
        if report.activation:
            facts.append(f"activation {report.activation}, {TRAINED[report.activation_right]}")
    if report.preprocessing:
        facts.append(_describe_preprocessing(report.image_size, report.preprocessing))
    if report.state != "found":
        facts += [report.message, *([f"fix: {report.fix}"] if report.fix else [])]
    for fact in facts:
        _line(escape(fact), indent=True)


def _describe_preprocessing(size: int | None, settings: dict[str, Any]) -> str:
    parts = [f"images {size} px"] if size else []
    parts += [str(settings[k]) for k in ("interpolation", "resize_mode") if settings.get(k)]
    for key in ("mean", "std"):
        if numbers := settings.get(key):
            values = numbers if isinstance(numbers, (list, tuple)) else [numbers]
            parts.append(f"{key} {' '.join(f'{float(value):.3f}' for value in values)}")
    return ", ".join(parts)


def _describe_comparison(one: Comparison) -> str:
    where, figure = f"{escape(one.task)} on {escape(one.backbone)}", one.figure
    if figure is None:
        return f"{where}: {one.measured:.2f}; {one.reason}"
    metric = "top-1" if figure.metric == "top1" else "recall"
    loose = one.agrees is False and figure.loose
    mark = "[yellow]differs[/]" if loose else AGREES[one.agrees]
    limit = f" (within {figure.tolerance:g})" if one.comparable else ""
    published = f"published {figure.value:.2f} by {figure.source}"
    return f"{where}: {metric} {one.measured:.2f}, {published}: {mark}{limit}; {one.reason}"
