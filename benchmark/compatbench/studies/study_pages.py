"""The generated sections of ``docs/analysis.md`` and ``docs/alignment.md``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from compatbench.data.cards import select_names
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.pages.marked_sections import fill_section, find_sections
from compatbench.pages.figures.svg import save_svg, svg_style
from compatbench.results.measures import upgrade_pairs
from compatbench.studies.aligned_gains import study_aligned
from compatbench.studies.claims import study_claims
from compatbench.studies.depth import study_depth
from compatbench.studies.embeddings import study_embeddings
from compatbench.studies.gauge import study_gauge
from compatbench.studies.layers import study_layers
from compatbench.studies.stress_test import study_stress
from compatbench.studies.study_report import StudyReport
from compatbench.studies.study_setup import StudySetup

# What the stress tests of the page look at: a method of each kind, and prompts beside them.
STRESS_METHODS = "linear_probe,simpleshot,gda,clip_adapter,taskres,tip_adapter_f,kgcoop"
SIZES = (32, 64, 96)


@dataclass(frozen=True)
class PageSettings:
    """What the sections of a page are told besides the setup.

    Attributes:
        tasks: names and globs of the depth study's tasks.
        steps: most optimiser steps of the depth study's fits.
    """

    tasks: str | None = None
    steps: int = 100


def _depth(setup: StudySetup, settings: PageSettings) -> list[StudyReport]:
    return [study_depth(setup, settings.tasks, steps=settings.steps)]


def _gauge(setup: StudySetup, settings: PageSettings) -> list[StudyReport]:
    pairs = study_aligned(setup.suite, setup.out).gains
    return [study_gauge(setup.of_pair(pair)) for pair in pairs]


def _stress(setup: StudySetup, settings: PageSettings, **changes: Any) -> list[StudyReport]:
    """The first upgrade turned, or all upgrades changed in another way."""
    pairs = upgrade_pairs(setup.suite.upgrades)
    setups = map(setup.of_pair, pairs if changes else pairs[:1])
    seeds = setup.suite.seeds[:1]
    return [study_stress(one, STRESS_METHODS, seeds=seeds, **changes) for one in setups]


def _aligned(setup: StudySetup, settings: PageSettings) -> list[StudyReport]:
    report = study_aligned(setup.suite, setup.out)
    if not report.tables():
        raise CompatbenchError(
            f"{setup.out}/results/{setup.suite.name} has no method both plain and aligned; run "
            f"'compatbench run --suite {setup.suite.name} --methods \"*aligned\"' first"
        )
    return [report]


SECTIONS: Mapping[str, Callable[[StudySetup, PageSettings], Sequence[StudyReport]]] = {
    "layers": lambda setup, _: [study_layers(setup)],
    "depth": _depth,
    "embeddings": lambda setup, _: [study_embeddings(setup)],
    "claims": lambda setup, _: study_claims(setup.suite, setup.out),
    "gauge": _gauge,
    "turned": _stress,
    "aligned": _aligned,
    "sizes": partial(_stress, sizes=SIZES),
    "words": partial(_stress, words=True),
}
# Of the sections that have a figure: what it shows, for readers who cannot see it.
CAPTIONS = {
    "layers": "Change of parameters and features by layer",
    "depth": "Gain over zero-shot on source and target by depth",
    "embeddings": "Rank correlations of the figures with the loss",
    "turned": "Accuracy on the target against the angle of the turn",
    "aligned": "Target accuracy of copied and of aligned modules",
}


def write_sections(
    path: Path, setup: StudySetup, only: str = "all", settings: PageSettings = PageSettings()
) -> Iterator[str]:
    """Writes the sections that a page has markers for, and their figures in a folder beside it.

    Args:
        only: names and globs of the sections.

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
    for name in select_names(only, find_sections(text, list(SECTIONS)), "section of this page"):
        reports = SECTIONS[name](setup, settings)
        body = "\n\n".join(report.markdown() for report in reports)
        if name in CAPTIONS:
            with svg_style():
                if figure := reports[0].draw():
                    save_svg(figure, folder / f"{name}.svg")
                    body = f"![{CAPTIONS[name]}]({folder.name}/{name}.svg)\n\n{body}"
        text = fill_section(text, name, body)
        write_atomic(path, text.encode())
        yield name
