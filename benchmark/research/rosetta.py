"""Makes the tables of docs/rosetta.md from committed results.

The results come from these commands:

compatbench run --suite mini --methods all --transfers copied,words
cd benchmark/research
compatbench run --suite rosetta-parts.yaml --methods rosetta_variants.py
python rosetta.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import compatbench as cb
from compatbench.data.cards import suite_cards
from compatbench.results.estimate import estimate
from compatbench.results.ranks import Ranked
from compatbench.tables.markdown import escape, fill_section, table
from compatbench.tables.numbers import NOTHING, signed

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
PAGE = REPOSITORY / "docs" / "rosetta.md"
SOURCE, TARGETS = "mini-clip", ("mini-eva-clip", "mini-eva-clip-anew")
OWN = "rosetta"
# Its nearest rivals, the methods that lead by other means, and the floor.
BESIDE = ("proker", "tip_adapter", "tip_adapter_f", "taskres", "gda", "contcoop", "zeroshot")
PARTS = {
    "rosetta": "Rosetta",
    "rosetta_copied": "not rotated: the module copied as it is",
    "rosetta_rotated": "rotated about the origin, not the words' means",
    "rosetta_undamped": "without ρ",
    "rosetta_few_words": "250 words, not 2,000",
    "rosetta_labels": "Tip-Adapter's values, labels not solved for",
    "rosetta_linear": "a linear kernel",
    "rosetta_first": "the first configuration: a weight for any number of shots",
}


def read(suite: str, out: Path) -> dict[tuple[str, str], list[Ranked]]:
    """Method and transfer -> its place on each target, in the suite's ranking."""
    results = cb.results(suite_cards.read(suite), out)
    found: dict[tuple[str, str], list[Ranked]] = {}
    for target in TARGETS:
        for transfer in results.suite.transfers:
            for one in results.ranked((SOURCE, target), transfer=transfer):
                found.setdefault((one.standing.info.name, transfer), []).append(one)
    return found


def lead(own: Ranked, other: Ranked) -> str:
    """H of Rosetta less that of another, in points, with a bootstrap interval over tasks."""
    tasks = own.standing.tasks
    both = [(own.value("h", task), other.value("h", task)) for task in tasks]
    found = estimate([a - b for a, b in both if a is not None and b is not None])
    return f"{signed(found.value)} [{signed(found.low)}, {signed(found.high)}]"


def compare(places: dict[tuple[str, str], list[Ranked]]) -> list[str]:
    """Rosetta beside other methods, copied and through words."""
    own, rows = places[OWN, "words"], []
    keys = [(OWN, "words"), *((m, t) for m in BESIDE for t in ("copied", "words"))]
    for key in (key for key in keys if key in places):
        name = escape(places[key][0].standing.info.title)
        row = [name, key[1], figure(places[key][0], "source")]
        for one, best in zip(places[key], own, strict=True):
            row += [figure(one, "target"), figure(one, "h")]
            row.append(NOTHING if one is best else lead(best, one))
        rows.append(row)
    header = ["Method", "Transfer", "Source"]
    return table([*header, *columns("H", "Rosetta's lead")], rows, left=(0, 1))


def vary(places: dict[tuple[str, str], list[Ranked]]) -> list[str]:
    """Rosetta with one part changed at a time."""
    rows = []
    for method, title in PARTS.items():
        ranked = places[method, "words"]
        figures = [figure(one, measure) for one in ranked for measure in ("target", "h")]
        rows.append([title, figure(ranked[0], "source"), *figures])
    return table(["", "Source", *columns("H")], rows)


def columns(*rest: str) -> Iterable[str]:
    return [name for target in TARGETS for name in (target, *rest)]


def figure(ranked: Ranked, measure: str) -> str:
    value = ranked.value(measure)  # type: ignore[arg-type]
    return NOTHING if value is None else f"{value:.1f}"


def fill(page: str) -> str:
    """The page with both tables between their marks."""
    measured = read("mini", REPOSITORY)
    parts = measured | read(str(HERE / "rosetta-parts.yaml"), HERE)
    page = fill_section(page, "beside", "\n".join(compare(measured)))
    return fill_section(page, "parts", "\n".join(vary(parts)))


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
