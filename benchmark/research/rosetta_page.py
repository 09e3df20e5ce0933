"""Makes the tables of docs/rosetta.md from committed results.

The results come from these commands:

compatbench run --suite mini --methods all --transfers copied,words
cd benchmark/research
compatbench run --suite rosetta-parts.yaml --methods rosetta_variants.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pages import Page

import compatbench as cb
from compatbench.data.cards import suite_cards
from compatbench.results.ranks import Ranked
from compatbench.results.standing import paired_interval
from compatbench.results.tuning_records import read_record, tuning_path
from compatbench.tables.numbers import NOTHING, percent, signed
from compatbench.tables.table import Cell, Table, number, plain_table

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
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
    places: dict[tuple[str, str], list[Ranked]] = {}
    for target in TARGETS:
        for transfer in results.suite.transfers:
            for ranked in results.ranked((SOURCE, target), transfer=transfer):
                places.setdefault((ranked.standing.info.name, transfer), []).append(ranked)
    return places


def lead(rosetta: Ranked, other: Ranked) -> str:
    """H of Rosetta less that of another, in points, with an interval over tasks."""
    gap = paired_interval(rosetta.standing, other.standing, "h")
    assert gap is not None
    return f"{signed(gap.value)} [{signed(gap.low)}, {signed(gap.high)}]"


def compare(places: dict[tuple[str, str], list[Ranked]]) -> Table:
    """Rosetta beside other methods, copied and through words."""
    ours, rows = places[OWN, "words"], list[list[Cell | str]]()
    keys = [(OWN, "words"), *((m, t) for m in BESIDE for t in ("copied", "words"))]
    for key in (key for key in keys if key in places):
        first = places[key][0]
        row: list[Cell | str] = [first.standing.info.title, key[1], settings_tried(key[0])]
        row.append(percent(first.value("source")))
        for ranked, rosetta in zip(places[key], ours, strict=True):
            row += [percent(ranked.value("target")), percent(ranked.value("h"))]
            row.append(NOTHING if ranked is rosetta else number(lead(rosetta, ranked)))
        rows.append(row)
    header = ["Method", "Transfer", "Settings", "Source"]
    return plain_table([*header, *columns("H", "Rosetta's lead")], rows, left=(0, 1))


def settings_tried(method: str) -> str:
    """How many settings were compared for it on the suite's development tasks."""
    record = tuning_path(REPOSITORY, "mini", method)
    return str(len(read_record(record).settings)) if record.is_file() else "1"


def vary(places: dict[tuple[str, str], list[Ranked]]) -> Table:
    """Rosetta with one part changed at a time."""
    rows = []
    for method, title in PARTS.items():
        ranked = places[method, "words"]
        values = [place.value(measure) for place in ranked for measure in ("target", "h")]
        rows.append([title, *map(percent, (ranked[0].value("source"), *values))])
    return plain_table(["", "Source", *columns("H")], rows)


def columns(*rest: str) -> Iterable[str]:
    return [name for target in TARGETS for name in (target, *rest)]


def make_page() -> Page:
    """Both tables of the page."""
    measured = read("mini", REPOSITORY)
    parts = measured | read(str(HERE / "rosetta-parts.yaml"), HERE)
    return Page({"beside": compare(measured), "parts": vary(parts)})
