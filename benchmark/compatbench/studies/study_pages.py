"""The generated sections of ``docs/analysis.md`` and ``docs/alignment.md``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from compatbench.data.cards import select_names
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.pages.figures.svg import save_svg, svg_style
from compatbench.pages.marked_sections import fill_section, find_sections
from compatbench.results.measures import Upgrade, upgrade_pairs
from compatbench.studies.claims import study_claims
from compatbench.studies.depth import study_depth
from compatbench.studies.embeddings import study_embeddings
from compatbench.studies.gauge import study_gauge
from compatbench.studies.layers import study_layers
from compatbench.studies.stress_test import study_stress
from compatbench.studies.study_report import StudyReport
from compatbench.studies.study_setup import StudySetup
from compatbench.studies.words_gains import study_gains

# What the stress tests of the page look at: a method of each kind, and prompts beside them.
STRESS_METHODS = "linear_probe,simpleshot,gda,clip_adapter,taskres,tip_adapter_f,kgcoop"
SIZES = (32, 64, 96)
SECTIONS = (
    *("layers", "depth", "embeddings", "claims"),
    *("gauge", "turned", "gains", "sizes", "words"),
)


def _sections(
    setup: StudySetup, tasks: str | None = None, steps: int = 100
) -> dict[str, Callable[[], Sequence[StudyReport]]]:
    """What each section shows."""
    suite, out = setup.suite, setup.out
    pairs = upgrade_pairs(suite.upgrades)

    def stress(pairs: Sequence[Upgrade] = pairs, **changes: Any) -> list[StudyReport]:
        setups = map(setup.of_pair, pairs)
        return [study_stress(s, STRESS_METHODS, seeds=suite.seeds[:1], **changes) for s in setups]

    return {
        "layers": lambda: [study_layers(setup)],
        "depth": lambda: [study_depth(setup, tasks, steps=steps)],
        "embeddings": lambda: [study_embeddings(setup)],
        "claims": lambda: study_claims(suite, out),
        "gauge": lambda: [study_gauge(setup.of_pair(p)) for p in study_gains(suite, out).gains],
        "turned": lambda: stress(pairs[:1]),
        "gains": lambda: [study_gains(suite, out)],
        "sizes": lambda: stress(sizes=SIZES),
        "words": lambda: stress(words=True),
    }


# Of the sections that have a figure: what it shows, for readers who cannot see it.
CAPTIONS = {
    "layers": "Change of parameters and features by layer",
    "depth": "Gain over zero-shot on source and target by depth",
    "embeddings": "Rank correlations of the figures with the loss",
    "turned": "Accuracy on the target against the angle of the turn",
    "gains": "Target accuracy of modules copied and through words",
}


def write_sections(
    path: Path, setup: StudySetup, only: str = "all", tasks: str | None = None, steps: int = 100
) -> Iterator[str]:
    """Writes the sections that a page has markers for, and their figures in a folder beside it.

    Args:
        only: names and globs of the sections.
        tasks: names and globs of the depth study's tasks.
        steps: most optimiser steps of the depth study's fits.

    Yields:
        The name of each section that was written.

    Raises:
        CompatbenchError: a page that cannot be read or has no markers, an unknown name, or
            whatever a study raises.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CompatbenchError(f"cannot read {path}: {error}") from None
    folder = path.parent / path.stem
    sections = _sections(setup, tasks, steps)
    for name in select_names(only, find_sections(text, SECTIONS), "section of this page"):
        reports = sections[name]()
        body = "\n\n".join(report.markdown() for report in reports)
        if name in CAPTIONS:
            with svg_style():
                if figure := reports[0].draw():
                    save_svg(figure, folder / f"{name}.svg")
                    body = f"![{CAPTIONS[name]}]({folder.name}/{name}.svg)\n\n{body}"
        text = fill_section(text, name, body)
        write_atomic(path, text.encode())
        yield name
