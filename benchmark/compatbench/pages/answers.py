"""What a suite's matrix asks beyond a ranking, and the answers: told from its card, not by name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from compatbench.data.shots import count_shots
from compatbench.pages.cells import upgrade_cell, upgrade_text
from compatbench.pages.figures import embed
from compatbench.pages.markdown import fold
from compatbench.pages.questions import (
    ablation_table,
    path_table,
    retained_table,
    shots_table,
)
from compatbench.pages.suitepage import SuitePage
from compatbench.pages.tables import (
    aligned_table,
    main_table,
    ranking_table,
    unranked_lines,
)
from compatbench.results.groups import rank_group


@dataclass(frozen=True)
class Answer:
    """One question of a suite.

    Attributes:
        text: one paragraph before the tables.
        lines: the tables, each with an empty line before it, and pictures.
    """

    title: str
    text: str
    lines: list[str]


def own_answers(page: SuitePage, figures: Collection[str] = ()) -> list[Answer]:
    """The answers to the questions that a suite puts, as far as there are results.

    Args:
        figures: names of the pictures that there are.
    """
    if not page.results.all:
        return []
    found = [
        _steps(page, figures),
        _shots(page, figures),
        _ablation(page),
        _retained(page),
        _kinds(page),
    ]
    return [answer for answer in found if answer is not None]


def section_answers(page: SuitePage, figures: Collection[str] = ()) -> list[Answer]:
    """The answers of a suite that is shown under another: a ranking, where it asks no more."""
    if not page.results.all:
        return []
    return own_answers(page, figures) or [_ranking(page)]


def question_order(page: SuitePage) -> tuple[int, str]:
    """Sorts suites by their first question, in the order of ``own_answers``, then by name."""
    puts = (
        bool(page.paths),
        len(page.expected.shots) > 1,
        bool(page.configs),
        page.expected.retrained,
        bool(page.groups),
    )
    return puts.index(True) if True in puts else len(puts), page.name


def _kinds(page: SuitePage) -> Answer | None:
    """Kinds of upgrades kept apart."""
    if not page.groups:
        return None
    lines: list[str] = []
    for title, upgrades in page.groups.items():
        named = "; ".join(upgrade_cell(page, upgrade) for upgrade in upgrades)
        for count in sorted(page.expected.shots, reverse=True):
            table = ranking_table(rank_group(page, upgrades, count))
            lines += ["", *fold(f"{title}, {count_shots(count)}", [f"{named}.", "", *table])]
    text = "Means over the upgrades of one kind and their datasets; never across kinds."
    return Answer("By kind of upgrade", text, lines)


def _ranking(page: SuitePage) -> Answer:
    """Upgrades of other models than the suite's that it is shown under."""
    lines: list[str] = []
    for upgrade in page.expected.upgrades:
        for count in sorted(page.expected.shots, reverse=True):
            notes = unranked_lines(page.ranks(upgrade, count))
            where = f"{upgrade_cell(page, upgrade)}, {count_shots(count)}."
            lines += ["", where, "", *main_table(page, upgrade, count)]
            lines += ["", *notes] if notes else []
            if page.aligned:
                where = f"{upgrade_text(page, upgrade)}, {count_shots(count)}"
                summary = f"Re-attached through a map: {where}"
                lines += ["", *fold(summary, aligned_table(page, upgrade, count))]
    text = "Ranked by H."
    if page.aligned:
        text += " Through a map, target, H and gain are: attached untouched → through the map."
    return Answer("Ranking", text, lines)


def _steps(page: SuitePage, figures: Collection[str]) -> Answer | None:
    """Upgrade paths of more than one target."""
    if not page.paths:
        return None
    shots = max(page.expected.shots)
    lines: list[str] = []
    for number, path in enumerate(page.paths, 1):
        lines += embed(figures, page.name, number, "decay")
        arrows = upgrade_text(page, path)
        gains = path_table(page, path, shots, "gain")
        lines += [
            "",
            f"{upgrade_cell(page, path)}: gain over each model's own zero-shot.",
            "",
            *gains,
        ]
        accuracies = path_table(page, path, shots, "accuracy")
        lines += ["", *fold(f"Accuracy: {arrows}", accuracies)]
    text = (
        f"One module, {count_shots(shots)}, trained on the first model and measured at every later "
        "one; in parentheses what each step changes, in points. Methods in the order of H on the "
        "last."
    )
    return Answer("Step by step", text, lines)


def _shots(page: SuitePage, figures: Collection[str]) -> Answer | None:
    if len(page.expected.shots) < 2:
        return None
    lines: list[str] = []
    shown: set[str] = set()
    for number, upgrade in enumerate(page.expected.upgrades, 1):
        lines += embed(figures, page.name, number, "shots")
        table = shots_table(page, upgrade, "h")
        lines += ["", f"H: {upgrade_cell(page, upgrade)}.", "", *table]
        source = upgrade[0]
        if source not in shown:
            shown.add(source)
            summary = f"Source accuracy: {page.backbone_title(source)}"
            lines += ["", *fold(summary, shots_table(page, upgrade, "source"))]
        summary = f"Target accuracy: {page.backbone_title(upgrade[1])}"
        lines += ["", *fold(summary, shots_table(page, upgrade, "target"))]
    text = (
        "Against the number of training images per class, means over datasets and seeds. Methods "
        "in the order of H at the largest number."
    )
    return Answer("By shots", text, lines)


def _ablation(page: SuitePage) -> Answer | None:
    if not any(name in page.results.methods for name in page.configs):
        return None
    shots = max(page.expected.shots)
    lines: list[str] = []
    for upgrade in page.expected.upgrades:
        table = ablation_table(page, upgrade, shots)
        lines += ["", f"{upgrade_cell(page, upgrade)}.", "", *table]
    text = (
        "What each change does to the method that it is made to, in points: mean differences over "
        f"datasets, {count_shots(shots)}; in bold where the 95 % interval, by a paired bootstrap "
        "over datasets, does not hold 0."
    )
    return Answer("Part by part", text, lines)


def _retained(page: SuitePage) -> Answer | None:
    if not page.expected.retrained:
        return None
    shots = max(page.expected.shots)
    lines: list[str] = []
    for upgrade in page.expected.upgrades:
        lines += ["", f"{upgrade_cell(page, upgrade)}.", "", *retained_table(page, upgrade, shots)]
    text = (
        "The gain over the target's zero-shot of the old module, of one retrained on the target "
        f"from the same images, and the share that is kept; {count_shots(shots)}."
    )
    return Answer("Kept against retrained", text, lines)
