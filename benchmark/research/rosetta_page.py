"""Makes the tables of docs/rosetta.md from committed results.

The results come from these commands:

compatbench run --suite mini --methods all --transfers copied,words
cd benchmark/research
compatbench run --suite rosetta-parts.yaml --methods rosetta_variants.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pages import read_page

import compatbench as cb
from compatbench.data.cards import suite_cards
from compatbench.results.estimate import estimate
from compatbench.results.ranks import Ranked
from compatbench.results.tuning_records import read_record, tuning_path
from compatbench.tables.markdown import escape, fill_section, table
from compatbench.tables.numbers import NOTHING, signed

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
    tasks = rosetta.standing.tasks
    both = [(rosetta.value("h", task), other.value("h", task)) for task in tasks]
    gap = estimate([a - b for a, b in both if a is not None and b is not None])
    assert gap is not None
    return f"{signed(gap.value)} [{signed(gap.low)}, {signed(gap.high)}]"


def compare(places: dict[tuple[str, str], list[Ranked]]) -> list[str]:
    """Rosetta beside other methods, copied and through words."""
    ours, rows = places[OWN, "words"], []
    keys = [(OWN, "words"), *((m, t) for m in BESIDE for t in ("copied", "words"))]
    for key in (key for key in keys if key in places):
        name = escape(places[key][0].standing.info.title)
        row = [name, key[1], settings_tried(key[0]), figure(places[key][0], "source")]
        for ranked, rosetta in zip(places[key], ours, strict=True):
            row += [figure(ranked, "target"), figure(ranked, "h")]
            row.append(NOTHING if ranked is rosetta else lead(rosetta, ranked))
        rows.append(row)
    header = ["Method", "Transfer", "Settings", "Source"]
    return table([*header, *columns("H", "Rosetta's lead")], rows, left=(0, 1))


def settings_tried(method: str) -> str:
    """How many settings were compared for it on the suite's development tasks."""
    record = tuning_path(REPOSITORY, "mini", method)
    return str(len(read_record(record).settings)) if record.is_file() else "1"


def vary(places: dict[tuple[str, str], list[Ranked]]) -> list[str]:
    """Rosetta with one part changed at a time."""
    rows = []
    for method, title in PARTS.items():
        ranked = places[method, "words"]
        figures = [figure(place, measure) for place in ranked for measure in ("target", "h")]
        rows.append([title, figure(ranked[0], "source"), *figures])
    return table(["", "Source", *columns("H")], rows)


def columns(*rest: str) -> Iterable[str]:
    return [name for target in TARGETS for name in (target, *rest)]


def figure(ranked: Ranked, measure: str) -> str:
    value = ranked.value(measure)  # type: ignore[arg-type]
    return NOTHING if value is None else f"{value:.1f}"


def make_files() -> dict[str, str]:
    """The page with both tables between their marks."""
    measured = read("mini", REPOSITORY)
    parts = measured | read(str(HERE / "rosetta-parts.yaml"), HERE)
    page = fill_section(read_page("rosetta.md"), "beside", "\n".join(compare(measured)))
    return {"rosetta.md": fill_section(page, "parts", "\n".join(vary(parts)))}
