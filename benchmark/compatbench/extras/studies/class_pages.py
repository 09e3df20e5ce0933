"""What pages say and draw of classes that modules were not trained on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from compatbench.engine.cell import NOT_APPLICABLE
from compatbench.messages import count
from compatbench.results.estimate import FEWEST_UNITS, Interval, average_units, estimate
from compatbench.results.expected import Upgrade
from compatbench.results.four_ways import CLASSES, MODELS, Classes, FourWays, measure_four_ways
from compatbench.results.ranks import exact
from compatbench.tables.figures.kinds import read_kinds
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.figures.values import FOUNDING_PAPER, record, two_digits
from compatbench.tables.markdown import escape
from compatbench.tables.numbers import bounds, percent, signed
from compatbench.tables.pages.sections import Page, Section
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Table, number, plain_table, text

# What a protocol calls the classes that modules were trained on, and the others.
NAMES = {"base-to-new": ("Base", "New"), "cross-dataset": ("Trained", "Others")}
_FOLDER = Path(__file__).parent
_Figures = Mapping[str, Callable[[FourWays], str]]  # by the title of the column


def has_other_classes(page: SuitePage) -> bool:
    """Whether modules are tested on classes that they were not fitted for."""
    return page.expected.protocol != "few-shot" and bool(page.results.all)


def measure_page(page: SuitePage, upgrade: Upgrade) -> list[FourWays]:
    """Every method four ways, at the most shots; those that see test images first are left out."""
    methods = [method for method in page.results.methods.values() if not method.info.sees_tests]
    return measure_four_ways(methods, page.expected, upgrade, max(page.expected.shots))


def classes_table(page: SuitePage, upgrade: Upgrade, top: int | None = None) -> Table:
    """The four accuracies of every method, and their harmonic means; of the first ``top``."""
    known, other = NAMES[page.expected.protocol]
    figures: _Figures = {
        known: lambda ways: _sides(ways, "own"),
        other: lambda ways: _sides(ways, "other"),
        f"H of {known.lower()} and {other.lower()}": lambda ways: " → ".join(
            percent(exact(ways.mean(f"h_{model}"))) for model in MODELS
        ),
        f"H, {known.lower()}": lambda ways: percent(exact(ways.mean("h_own"))),
        f"H, {other.lower()}": lambda ways: percent(exact(ways.mean("h_other"))),
        "Four-way H": lambda ways: percent(exact(ways.mean("four"))),
        "95 %": lambda ways: bounds(ways.mean("four")),
    }
    return _table(measure_page(page, upgrade)[:top], figures, {known, f"H, {known.lower()}"})


def forgetting_table(page: SuitePage, upgrade: Upgrade) -> Table:
    """Gains over zero-shot on both kinds of classes, what is forgotten, and negative flips."""
    known, other = NAMES[page.expected.protocol]
    figures: _Figures = {
        f"Gain, {known.lower()}": lambda ways: _sides(ways, "own", "_gain", signed),
        f"Gain, {other.lower()}": lambda ways: _sides(ways, "other", "_gain", signed),
        "Forgotten": lambda ways: signed(exact(ways.mean("forgotten"))),
        "95 %": lambda ways: bounds(ways.mean("forgotten"), signed),
        f"NFR, {known.lower()}": lambda ways: percent(exact(ways.mean("own_negative_flips"))),
        f"NFR, {other.lower()}": lambda ways: percent(exact(ways.mean("other_negative_flips"))),
    }
    learning = [ways for ways in measure_page(page, upgrade) if ways.info.learns]
    return _table(learning, figures, {f"Gain, {known.lower()}", f"NFR, {known.lower()}"})


def _table(methods: Iterable[FourWays], figures: _Figures, of_own: Collection[str]) -> Table:
    """A row for each method; where it does not apply to other classes, figures ``of_own`` alone."""
    rows = []
    for ways in methods:
        applies = not ways.reasons["other"].startswith(NOT_APPLICABLE)
        shown = [
            number(figure(ways) if applies or title in of_own else "n/a")
            for title, figure in figures.items()
        ]
        rows.append([text(ways.info.title, ways.info.paper), *shown])
    return plain_table(["Method", *figures], rows)


def _sides(
    ways: FourWays, classes: Classes, end: str = "", show: Callable[[float | None], str] = percent
) -> str:
    """On source and target: the accuracies ``61.9 → 56.8``, or the gains ``+4.3 → -1.2``."""
    return " → ".join(show(exact(ways.mean(f"{classes}_{model}{end}"))) for model in MODELS)


def classes_sentence(page: SuitePage, upgrade: Upgrade) -> str:
    """How many methods apply to other classes, the best one and the best floor; or nothing."""
    methods = measure_page(page, upgrade)
    complete = [ways for ways in methods if ways.state == "complete" and ways.info.learns]
    if not complete:
        return ""
    refused = sum(ways.state == "not applicable" for ways in methods)
    helped = sum((exact(ways.mean("other_target_gain")) or 0) > 0 for ways in complete)
    best, floors = complete[0], [w for w in methods if w.info.depth == "none" and w.mean("four")]
    highest = f"{escape(best.info.title)} has the highest four-way H, {_four(best)}"
    if floors and float(_four(best)) <= float(_four(floors[0])):
        highest = f"None beats zero-shot: {highest}, and {escape(floors[0].info.title)} has "
        highest += _four(floors[0])
    elif floors:
        highest += f", beside {_four(floors[0])} of {escape(floors[0].info.title)}"
        over = _difference(best, floors[0])
        if (tasks := len(page.expected.tasks)) < FEWEST_UNITS:
            few = f"{count(tasks, 'task')} {'is' if tasks == 1 else 'are'} too few"
            highest += f"; {few} to show that any beats zero-shot"
        elif over is None or over.sign < 1:
            highest += "; it is not shown to beat zero-shot"
    return (
        f"Of {page.results.methods_in_words}, {len(complete)} apply to other classes "
        f"and {refused} to their own classes only. {highest}. On other classes {helped} of the "
        f"{len(complete)} end above the target's zero-shot."
    )


def _four(ways: FourWays) -> str:
    return percent(exact(ways.mean("four")))


def _difference(ways: FourWays, floor: FourWays) -> Interval | None:
    """How much higher its four-way H is, over pairs of test sets."""
    four, zero_shot = (
        average_units({name: each.frame[name] for name in ("pair", "four")}, "pair")
        for each in (ways, floor)
    )
    if four["pair"] != zero_shot["pair"]:
        return None
    return estimate(four["four"] - zero_shot["four"])


def _section(page: Page, place: int, title: str, template: str) -> Section:
    functions = {
        function.__name__: function
        for function in (classes_table, forgetting_table, classes_sentence)
    }
    return Section(page, place, title, has_other_classes, str(_FOLDER / template), functions)


CLASSES_SECTION = _section("suite", 70, "Known and other classes", "classes.md.jinja")
ANSWER = _section("leaderboard", 20, "Known and other classes: {}", "classes_answer.md.jinja")


def class_figures(page: SuitePage) -> Iterator[tuple[str, Shown]]:
    """For each upgrade, the accuracies on own and on other classes, source then target."""
    for upgrade in page.expected.upgrades if has_other_classes(page) else ():
        ranks, values = page.ranks(upgrade, max(page.expected.shots)), []
        rows = {row.standing.info.name: row for row in ranks}
        for ways in measure_page(page, upgrade):
            if ways.state == "complete" and ways.info.name in rows:
                means = {
                    classes: [two_digits(exact(ways.mean(f"{classes}_{m}"))) for m in MODELS]
                    for classes in CLASSES
                }
                values.append(record(rows[ways.info.name], **means))
        # The best two and the worst by the four accuracies, zero-shot, the founding paper's own.
        founding = [rows[n].title for n in rows if rows[n].figures["paper"] == FOUNDING_PAPER]
        floor = [value["title"] for value in values if value["kind"] == "floor"]
        titles = [value["title"] for value in values]
        named = {*titles[:2], *titles[-1:], *floor[:1], *founding[:1]}
        values = [value | {"named": value["title"] in named} for value in values]
        yield page.path_title(upgrade), Shown(values, {})


CLASSES_FIGURE = read_kinds(_FOLDER / "figures.yaml.jinja", classes=class_figures)["classes"]
