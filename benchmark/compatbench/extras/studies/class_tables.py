"""Own and other classes, before and after an upgrade: the tables of a suite with a protocol."""

from __future__ import annotations

from typing import Any

from compatbench.engine.cell import NOT_APPLICABLE
from compatbench.results.expected import Upgrade
from compatbench.results.four_ways import MODELS, Classes, FourWays, measure_four_ways
from compatbench.results.ranks import exact
from compatbench.tables.markdown import escape
from compatbench.tables.numbers import bounds, percent, signed
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Cell, Column, Table, make_table, number, text

# What a protocol calls the classes that modules were trained on, and the others.
NAMES = {"base-to-new": ("Base", "New"), "cross-dataset": ("Trained", "Others")}


def has_other_classes(page: SuitePage) -> bool:
    """Whether modules are tested on classes that they were not fitted for."""
    return page.expected.protocol != "few-shot" and bool(page.results.all)


def measure_page(page: SuitePage, upgrade: Upgrade, shots: int) -> list[FourWays]:
    """Every method four ways, but those that see all test images first, which are ranked apart."""
    methods = [one for one in page.results.methods.values() if not one.info.sees_tests]
    return measure_four_ways(methods, page.expected, upgrade, shots)


def classes_table(page: SuitePage, upgrade: Upgrade, shots: int, top: int | None = None) -> Table:
    """The four accuracies of every method, and their harmonic means; of the first ``top``."""
    own, other = NAMES[page.expected.protocol]
    columns = [
        Column("method", "Method", left=True),
        Column("own", own),
        Column("other", other),
        Column("both", f"H of {own.lower()} and {other.lower()}"),
        Column("own_h", f"H, {own.lower()}", show=percent),
        Column("other_h", f"H, {other.lower()}", show=percent),
        Column("four", "Four-way H", show=percent),
        Column("interval", "95 %"),
    ]

    def record(ways: FourWays) -> dict[str, Any]:
        own_h, other_h = (exact(ways.over_models(classes)) for classes in ("own", "other"))
        figures = {
            "other": _sides(ways, "other"),
            "both": number(" → ".join(percent(exact(ways.over_classes(m))) for m in MODELS)),
            "other_h": other_h,
            "four": exact(ways.four),
            "interval": number(bounds(ways.four)),
        }
        return {"own": _sides(ways, "own"), "own_h": own_h, **_of_others(ways, figures)}

    methods = measure_page(page, upgrade, shots)[:top]
    return make_table(columns, (_titled(ways) | record(ways) for ways in methods))


def forgetting_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """Gains over zero-shot on both kinds of classes, what is forgotten, and negative flips."""
    own, other = NAMES[page.expected.protocol]
    columns = [
        Column("method", "Method", left=True),
        Column("own", f"Gain, {own.lower()}"),
        Column("other", f"Gain, {other.lower()}"),
        Column("forgotten", "Forgotten", show=signed),
        Column("interval", "95 %"),
        Column("own_flips", f"NFR, {own.lower()}", show=percent),
        Column("other_flips", f"NFR, {other.lower()}", show=percent),
    ]

    def record(ways: FourWays) -> dict[str, Any]:
        own_flips, other_flips = (exact(ways.mean(f"{c}_negative_flips")) for c in ("own", "other"))
        figures = {
            "other": _sides(ways, "other", gains=True),
            "forgotten": exact(ways.forgotten),
            "interval": number(bounds(ways.forgotten, signed)),
            "other_flips": other_flips,
        }
        first = {"own": _sides(ways, "own", gains=True), "own_flips": own_flips}
        return first | _of_others(ways, figures)

    learned = (ways for ways in measure_page(page, upgrade, shots) if ways.info.learns)
    return make_table(columns, (_titled(ways) | record(ways) for ways in learned))


def classes_sentence(page: SuitePage, upgrade: Upgrade, shots: int) -> str:
    """How many methods apply to other classes, the best one and the best floor; or nothing."""
    methods = measure_page(page, upgrade, shots)
    complete = [ways for ways in methods if ways.state == "complete" and ways.info.learns]
    refused = [ways for ways in methods if ways.state == "not applicable"]
    if not complete:
        return ""
    best, floors = complete[0], [w for w in methods if w.info.depth == "none" and w.four]
    helped = [w for w in complete if (exact(w.mean("other_target_gain")) or 0) > 0]
    floor = "".join(f"; {escape(w.info.title)}: {percent(exact(w.four))}" for w in floors[:1])
    return (
        f"Methods that apply to other classes: {len(complete)}; to their own classes only: "
        f"{len(refused)}. Best four-way H: {escape(best.info.title)} "
        f"({percent(exact(best.four))}{floor}). Above the target's zero-shot on other classes: "
        f"{len(helped)} of {len(complete)}."
    )


def _titled(ways: FourWays) -> dict[str, Any]:
    return {"method": text(ways.info.title, ways.info.paper)}


def _sides(ways: FourWays, classes: Classes, gains: bool = False) -> Cell:
    """On source and target: the accuracies ``61.9 → 56.8``, or the gains ``+4.3 → -1.2``."""
    end, show = ("_gain", signed) if gains else ("", percent)
    means = (ways.mean(f"{classes}_{model}{end}") for model in MODELS)
    return number(" → ".join(show(exact(mean)) for mean in means))


def _of_others(ways: FourWays, figures: dict[str, Any]) -> dict[str, Any]:
    """Figures of other classes, to which some modules do not apply."""
    applies = not ways.reasons["other"].startswith(NOT_APPLICABLE)
    return figures if applies else dict.fromkeys(figures, text("n/a"))
