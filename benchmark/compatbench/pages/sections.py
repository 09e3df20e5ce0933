"""A suite's part of ``leaderboard.md``: the ranking first, what lies behind it folded away."""

from __future__ import annotations

from collections.abc import Collection

from compatbench.data.shots import count_shots, show_shots
from compatbench.pages.answers import Answer, own_answers, question_order, section_answers
from compatbench.pages.appendix import (
    cost_table,
    differs_table,
    gap_table,
    provenance_table,
    task_table,
)
from compatbench.pages.breakdown import breakage_table, dataset_table, variant_table
from compatbench.pages.cells import upgrade_cell, upgrade_text
from compatbench.pages.figures import embed
from compatbench.pages.markdown import code, escape, fold
from compatbench.pages.suitepage import SuitePage
from compatbench.pages.tables import aligned_table, main_table, rank_lines, unranked_lines
from compatbench.results.gaps import find_disagreements, find_gaps
from compatbench.results.measures import Measure, Upgrade


def suite_section(page: SuitePage, figures: Collection[str] = ()) -> list[str]:
    """Everything of a suite, with the suites that are shown under it."""
    lines = [f"## {escape(page.title)}", "", *_head(page)]
    if page.results.all:
        lines += _rankings(page, figures)
    else:
        lines += ["", "There are no results yet."]
    lines += _answers(own_answers(page, figures), level=3)
    for section in sorted(page.sections, key=question_order):
        lines += ["", f"### {escape(section.title)}", "", *_head(section)]
        lines += _answers(section_answers(section, figures), level=4)
        lines += _gaps(section, level=4)
    if page.results.all:
        lines += _appendix(page)
    return lines


def _head(page: SuitePage) -> list[str]:
    expected = page.expected
    lines = [f"> **Note.** {escape(page.note, longest=2000)}", ""] if page.note else []
    shots = ", ".join(str(show_shots(count)) for count in expected.shots)
    return [
        *lines,
        f"Suite {code(page.name)}: {_count(len(expected.tasks), 'task')}, {shots} shots per class, "
        f"{_count(len(expected.seeds), 'seed')}, {_count(len(expected.upgrades), 'upgrade')}, "
        f"{_count(len(page.copied), 'method')}.",
    ]


def _rankings(page: SuitePage, figures: Collection[str]) -> list[str]:
    lines: list[str] = []
    for number, upgrade in enumerate(page.expected.upgrades, 1):
        lines += ["", *_ranking(page, upgrade, number, figures)]
    return [
        *lines,
        *_aligned(page),
        *_gaps(page, level=3),
        *_breakage(page),
        *_variants(page),
        *_datasets(page),
    ]


def _ranking(page: SuitePage, upgrade: Upgrade, number: int, figures: Collection[str]) -> list[str]:
    most, *fewer = sorted(page.expected.shots, reverse=True)
    source, target = upgrade
    lines = [f"### {upgrade_cell(page, upgrade)}, {count_shots(most)}", ""]
    lines += [f"Trained on {code(source)}, attached to {code(target)}. Ranked by H.", ""]
    lines += main_table(page, upgrade, most)
    if notes := unranked_lines(page.ranks(upgrade, most)):
        lines += ["", *notes]
    if (found := rank_lines(page, upgrade, most)) is not None:
        text, table = found
        picture = embed(figures, page.name, number, "ranks")
        lines += ["", text, "", *fold("Average ranks", [*table, *picture])]
    for count in fewer:
        notes = unranked_lines(page.ranks(upgrade, count))
        table = [*main_table(page, upgrade, count), *([""] if notes else []), *notes]
        lines += ["", *fold(f"Ranked at {count_shots(count)}", table)]
    # Two pictures are enough to open with.
    return lines + (embed(figures, page.name, number, "scatter", "matrix") if number == 1 else [])


def _aligned(page: SuitePage) -> list[str]:
    if not page.aligned:
        return []
    lines = ["", "### Re-attached through a map (aligned)", ""]
    lines += [
        "Not in the rankings above. Target, H and gain: attached untouched → through the map."
    ]
    for upgrade in page.expected.upgrades:
        for count in sorted(page.expected.shots, reverse=True):
            lines += ["", f"#### {upgrade_cell(page, upgrade)}, {count_shots(count)}", ""]
            lines += aligned_table(page, upgrade, count)
    return lines


def _breakage(page: SuitePage) -> list[str]:
    shots = max(page.expected.shots)
    lines = ["", "### What breaks", ""]
    lines += [
        f"The same module before and after the upgrade, image by image; {count_shots(shots)}, "
        "means over datasets and seeds, in percent of the test images."
    ]
    for upgrade in page.expected.upgrades:
        table = breakage_table(page, upgrade, shots)
        lines += ["", *fold(upgrade_text(page, upgrade), table)]
    return lines


def _variants(page: SuitePage) -> list[str]:
    expected = page.expected
    parents = [task for task in expected.tasks if expected.variants.get(task)]
    if not parents:
        return []
    shots = max(expected.shots)
    lines = ["", "### Style shift", ""]
    lines += [
        f"Trained on the first column, {count_shots(shots)}; tested on the others: source → target."
    ]
    for task in parents:
        for upgrade in expected.upgrades:
            summary = f"{page.task_title(task)}: {upgrade_text(page, upgrade)}"
            lines += ["", *fold(summary, variant_table(page, upgrade, shots, task))]
    return lines


def _datasets(page: SuitePage) -> list[str]:
    shots = max(page.expected.shots)
    lines = ["", "### By dataset", ""]
    lines += [f"Means over seeds, {count_shots(shots)}; methods in the order of the main table."]
    shown: set[str] = set()
    for upgrade in page.expected.upgrades:
        source, target = upgrade
        tables: list[tuple[str, Measure]] = [
            (f"H: {upgrade_text(page, upgrade)}", "h"),
            (f"Target accuracy: {page.backbone_title(target)}", "target"),
        ]
        if source not in shown:
            shown.add(source)
            tables.append((f"Source accuracy: {page.backbone_title(source)}", "source"))
        for summary, measure in tables:
            lines += ["", *fold(summary, dataset_table(page, upgrade, shots, measure))]
    return lines


def _answers(answers: list[Answer], level: int) -> list[str]:
    """What the suite asks beyond a ranking; a suite with one such question needs no heading."""
    lines: list[str] = []
    for answer in answers:
        if level == 3 or len(answers) > 1:
            lines += ["", f"{'#' * level} {answer.title}"]
        lines += ["", answer.text, *answer.lines]
    return lines


def _gaps(page: SuitePage, level: int) -> list[str]:
    lines: list[str] = []
    if gaps := find_gaps(page.results, page.expected):
        text = "One row is one module on one model and one test set."
        lines += ["", f"{'#' * level} Failed and missing", "", text, "", *gap_table(page, gaps)]
    if places := find_disagreements(page.results):
        named = "; ".join(f"{code(backbone)} on {code(test_set)}" for backbone, test_set in places)
        lines += [
            "",
            f"{'#' * level} Rows that disagree",
            "",
            "Zero-shot accuracy does not depend on the method, yet result files differ in it "
            f"(other weights, images, or another machine): {named}.",
        ]
    return lines


def _appendix(page: SuitePage) -> list[str]:
    """Costs, settings, test sets and versions."""
    views = (
        "the plain view of each training image alone"
        if page.views == 1
        else f"{page.views} cached augmentations per training image"
    )
    steps = "" if page.max_steps is None else f", and at most {page.max_steps:,} optimiser steps"
    differs = any(method.differs for method in page.copied)
    most, upgrade = max(page.expected.shots), page.expected.upgrades[0]
    title = "Settings that differ from the published recipes"
    lines = ["", "### Details", "", f"Every trained method: {views}{steps}."]
    lines += ["", *fold("What it costs", cost_table(page, upgrade, most))]
    if differs:
        lines += ["", *fold(title, differs_table(page))]
    lines += ["", *fold("Test sets, with the licence of the images", task_table(page))]
    return [*lines, "", *fold("Made with, as the result files say", provenance_table(page))]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
