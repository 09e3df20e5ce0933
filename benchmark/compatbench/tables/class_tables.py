"""Own and other classes, before and after an upgrade: the tables of a suite with a protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from compatbench.engine.cell import NOT_APPLICABLE
from compatbench.results.bootstrap import Interval
from compatbench.results.expected import Upgrade
from compatbench.results.four_ways import MODELS, Classes, FourWays, measure_four_ways
from compatbench.results.ranks import exact
from compatbench.tables import markdown as md
from compatbench.tables.markdown import percent, signed, table
from compatbench.tables.suite_page import SuitePage

# What a protocol calls the classes that modules were trained on, and the others.
NAMES = {"base-to-new": ("Base", "New"), "cross-dataset": ("Trained", "Others")}


def has_other_classes(page: SuitePage) -> bool:
    """Whether modules are tested on classes that they were not fitted for."""
    return page.expected.protocol != "few-shot"


def measure_page(page: SuitePage, upgrade: Upgrade, shots: int) -> list[FourWays]:
    """Every method four ways, but those that see all test images first, which are ranked apart."""
    methods = [one for one in page.results.methods.values() if not one.info.sees_tests]
    return measure_four_ways(methods, page.expected, upgrade, shots)


def classes_table(
    page: SuitePage, upgrade: Upgrade, shots: int, top: int | None = None
) -> list[str]:
    """The four accuracies of every method, and their harmonic means; of the first ``top``."""
    found = measure_page(page, upgrade, shots)
    own, other = NAMES[page.expected.protocol]
    rows = []
    for one in found if top is None else found[:top]:
        rows.append(
            [
                md.linked(one.info.title, one.info.paper),
                _accuracies(one, "own"),
                _other(one, _accuracies(one, "other")),
                _other(one, _arrow(map(one.over_classes, MODELS))),
                percent(exact(one.over_models("own"))),
                _other(one, percent(exact(one.over_models("other")))),
                _other(one, percent(exact(one.four))),
                _other(one, md.bounds(one.four)),
            ]
        )
    header = ["Method", own, other, f"H of {own.lower()} and {other.lower()}", f"H, {own.lower()}"]
    return table([*header, f"H, {other.lower()}", "Four-way H", "95 %"], rows)


def forgetting_table(page: SuitePage, upgrade: Upgrade, shots: int) -> list[str]:
    """Gains over zero-shot on both kinds of classes, what is forgotten, and negative flips."""
    own, other = NAMES[page.expected.protocol]
    rows = [
        [
            md.linked(one.info.title, one.info.paper),
            _gains(one, "own"),
            _other(one, _gains(one, "other")),
            _other(one, signed(exact(one.forgotten))),
            _other(one, md.bounds(one.forgotten, signed)),
            percent(exact(one.mean(one.flips["own"]))),
            _other(one, percent(exact(one.mean(one.flips["other"])))),
        ]
        for one in measure_page(page, upgrade, shots)
        if one.info.learns
    ]
    header = ["Method", f"Gain, {own.lower()}", f"Gain, {other.lower()}", "Forgotten", "95 %"]
    return table([*header, f"NFR, {own.lower()}", f"NFR, {other.lower()}"], rows)


def classes_sentence(page: SuitePage, upgrade: Upgrade, shots: int) -> str:
    """How many methods apply to other classes, the best one and the best floor; or nothing."""
    found = measure_page(page, upgrade, shots)
    complete = [one for one in found if one.state == "complete" and one.info.learns]
    refused = [one for one in found if one.state == "not applicable"]
    if not complete:
        return ""
    best, floors = complete[0], [one for one in found if one.info.depth == "none" and one.four]
    helped = [one for one in complete if (exact(one.mean(one.gain["other", "target"])) or 0) > 0]
    floor = "".join(
        f"; {md.escape(one.info.title)}: {percent(exact(one.four))}" for one in floors[:1]
    )
    return (
        f"Methods that apply to other classes: {len(complete)}; to their own classes only: "
        f"{len(refused)}. Best four-way H: {md.escape(best.info.title)} "
        f"({percent(exact(best.four))}{floor}). Above the target's zero-shot on other classes: "
        f"{len(helped)} of {len(complete)}."
    )


def _accuracies(one: FourWays, classes: Classes) -> str:
    """Accuracy on source and target: ``61.9 → 56.8``."""
    return _arrow(one.mean(one.accuracy[classes, model]) for model in MODELS)


def _gains(one: FourWays, classes: Classes) -> str:
    """Gain over zero-shot on source and target: ``+4.3 → -1.2``."""
    return _arrow((one.mean(one.gain[classes, model]) for model in MODELS), signed)


def _arrow(means: Iterable[Interval | None], show: Callable[[float | None], str] = percent) -> str:
    return " → ".join(show(exact(mean)) for mean in means)


def _other(one: FourWays, text: str) -> str:
    """A figure of other classes, to which some modules do not apply."""
    return "n/a" if one.reasons["other"].startswith(NOT_APPLICABLE) else text
