"""``compatbench analyze page``: the analyses as sections of a page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from compatbench.cli.analyses import (
    Output,
    choose_own_tasks,
    embeddings_report,
    layers_report,
)
from compatbench.cli.claims import read_reports, render_markdown
from compatbench.cli.depth import run_depth
from compatbench.cli.gauge_report import alignment_section
from compatbench.data.cards import select_names, suite_cards
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.studies import alignment_page
from compatbench.studies.drawings import draw_depth, draw_layers, draw_predictions
from compatbench.studies.page import (
    SECTIONS,
    fill_section,
    marked_sections,
    render_depth,
    render_embeddings,
    render_layers,
)

ALT = {
    "layers": "Change of parameters and features by layer",
    "depth": "Gain over zero-shot on source and target by depth",
    "embeddings": "Rank correlations of the figures with the loss",
}


def page_command(
    console: Console,
    *,
    path: Path,
    suite: str,
    task: str,
    only: str,
    steps: int,
    out: Path,
    jobs: int | None,
    device: str,
) -> None:
    """Writes the sections that a page has marks for, and their figures.

    Raises:
        CompatbenchError: a page that cannot be read or has no marks, an unknown name, or
            whatever an analysis finds wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CompatbenchError(f"cannot read {path}: {error}") from None
    known = (*SECTIONS, *alignment_page.SECTIONS)
    sections = select_names(only, marked_sections(text, known), "section of this page")
    source, target, *_ = suite_cards.read(suite).upgrades[0]
    folder = path.parent / path.stem
    for name in sections:
        output = Output(figure=folder / f"{name}.svg")
        if name in alignment_page.SECTIONS:
            body = alignment_section(console, name, folder, suite, out, jobs, device)
        elif name == "layers":
            layers = layers_report(source, target, None, suite, 256, 1, device)
            body = render_layers(layers)
            output.draw(lambda report=layers: draw_layers(report))
        elif name == "depth":
            depth = run_depth(
                console,
                source=source,
                target=target,
                tasks=choose_own_tasks(task),
                suite=suite,
                shots=None,
                seeds=None,
                steps=steps,
                lr=None,
                out=out,
                jobs=jobs,
                device=device,
            )
            body = render_depth(depth)
            output.draw(lambda report=depth: draw_depth(report))
        elif name == "embeddings":
            moved = embeddings_report(source, target, None, suite, out, device)
            body = render_embeddings(moved.geometry, moved.predictions)
            if moved.predictions:
                output.draw(lambda report=moved: draw_predictions(report.predictions))
        else:
            body = "\n\n".join(map(render_markdown, read_reports(suite, out)))
        if name in ALT and output.figure is not None and output.figure.is_file():
            body = f"![{ALT[name]}]({folder.name}/{name}.svg)\n\n{body}"
        text = fill_section(text, name, body)
        write_atomic(path, text.encode())
        console.print(f"wrote {name} into {path}", highlight=False, soft_wrap=True)
