"""Makes the tables of docs/rosetta.md from committed results.

The results come from these commands:

compatbench run --suite mini --methods all
compatbench run --suite mini-shots --methods all
compatbench run --suite mini-no-lineage --methods all
cd benchmark/research
compatbench run --suite rosetta-held-out.yaml --methods rosetta_variants.py
compatbench run --suite rosetta-development.yaml --shots 16 \\
    --methods rosetta_variants.py,rosetta,zeroshot,taskres,tip_adapter,tip_adapter_f,gda
compatbench run --suite rosetta-development.yaml --shots 16 --methods linear_probe
compatbench run --suite rosetta-development.yaml --shots 1,2,4,8 --seeds 11 \\
    --methods rosetta_variants.py,rosetta,zeroshot
python rosetta.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from compatbench.data.cards import suite_cards, suite_tasks
from compatbench.pages.markdown import NOTHING, escape, fill_section, signed, table
from compatbench.results.bootstrap import mean_interval
from compatbench.results.measures import Expected, Standing, Upgrade, compute_standing
from compatbench.results.store import MethodResults, read_results

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
PAGE = REPOSITORY / "docs" / "rosetta.md"
OWN = "rosetta"
REFERENCE = "contcoop"
SOURCE = "mini-clip"
# The tasks at odd places of the alphabetical list, and the rest.
TASKS = suite_tasks(suite_cards.read("mini"))
DEVELOPMENT, HELD_OUT = sorted(TASKS)[0::2], sorted(TASKS)[1::2]
STYLES = tuple(f"mini-objects-{style}" for style in ("mono", "outline", "pixel", "render3d"))
PARTS = {
    "rosetta": "Rosetta",
    "rosetta_copied": "not turned: the module copied as it is",
    "rosetta_rotated": "turned about the origin, not the words' means",
    "rosetta_undamped": "without ρ",
    "rosetta_few_words": "250 words, not 2,000",
    "rosetta_labels": "Tip-Adapter's values, labels not solved for",
    "rosetta_linear": "a linear kernel",
    "rosetta_first": "the first configuration: a weight for any number of shots",
}


@cache
def _read(folder: Path) -> Mapping[str, MethodResults]:
    return read_results(folder).methods


@dataclass(frozen=True)
class Board:
    """The results of one folder, looked at on some tasks and seeds."""

    folder: Path
    tasks: Sequence[str]
    seeds: tuple[int, ...]
    shots: tuple[int, ...] = (16,)

    @property
    def methods(self) -> dict[str, MethodResults]:
        return dict(_read(self.folder))

    def standing(
        self, method: str, upgrade: Upgrade, shots: int = 16, test_set: str | None = None
    ) -> Standing:
        expected = Expected(tuple(self.tasks), self.shots, self.seeds, (upgrade,))
        variant = (self.tasks[0], test_set) if test_set else None
        return compute_standing(self.methods[method], expected, upgrade, shots, variant)


FEWER = (1, 2, 4, 8, 16)
DEVELOPED = Board(HERE / "results" / "rosetta-development", DEVELOPMENT, (11, 12, 13), FEWER)
BY_SHOTS = Board(DEVELOPED.folder, DEVELOPMENT, (11,), FEWER)
REPORTED = Board(REPOSITORY / "results" / "mini", HELD_OUT, (1, 2, 3))
VARIED = Board(HERE / "results" / "rosetta-held-out", HELD_OUT, (1, 2, 3))
STRANGER = Board(REPOSITORY / "results" / "mini-no-lineage", HELD_OUT, (1, 2, 3))
SHOTS = Board(REPOSITORY / "results" / "mini-shots", TASKS, (1,), FEWER)


def figure(standing: Standing, measure: str) -> str:
    mean = standing.mean(measure)  # type: ignore[arg-type]
    return NOTHING if mean is None else f"{mean.value:.1f}"


def by_task(standing: Standing, tasks: Sequence[str]) -> list[float]:
    means = [standing.mean("h", task) for task in tasks]
    return [mean.value for mean in means if mean is not None]


def margin(board: Board, method: str, upgrade: Upgrade) -> str:
    """H of Rosetta less that of a method, with its interval over tasks."""
    own, other = (by_task(board.standing(m, upgrade), board.tasks) for m in (OWN, method))
    if len(own) != len(other):
        return NOTHING
    found = mean_interval([a - b for a, b in zip(own, other, strict=True)])
    return f"{signed(found.value)} [{signed(found.low)}, {signed(found.high)}]"


def compare(board: Board, targets: Sequence[str]) -> list[str]:
    """Every method of a folder, the best on the last target first."""
    upgrades = [(SOURCE, target) for target in targets]
    # Names with a plus are methods with something changed; parts of Rosetta have their table.
    names = [name for name in board.methods if "+" not in name and not name.startswith("rosetta_")]
    standings = {m: [board.standing(m, u) for u in upgrades] for m in names}

    def value(method: str) -> float:
        mean = standings[method][-1].mean("h")
        return mean.value if mean else 0.0

    rows = []
    for method in sorted(standings, key=lambda m: (-value(m), m)):
        row = [escape(standings[method][0].info.title), figure(standings[method][0], "source")]
        for upgrade, standing in zip(upgrades, standings[method], strict=True):
            row += [figure(standing, "target"), figure(standing, "h")]
            row.append(NOTHING if method == OWN else margin(board, method, upgrade))
        rows.append(row)
    header = ["Method", "Source"]
    for target in targets:
        header += [target, "H", "Rosetta's lead"]
    return table(header, rows)


def vary(boards: Sequence[Board], targets: Sequence[str]) -> list[str]:
    """Rosetta and its variants; each is read from the first folder that has it."""
    rows = []
    for method, title in PARTS.items():
        board = next(board for board in boards if method in board.methods)
        standings = [board.standing(method, (SOURCE, target)) for target in targets]
        row = [title, figure(standings[0], "source")]
        for standing in standings:
            row += [figure(standing, "target"), figure(standing, "h")]
        rows.append(row)
    header = ["", "Source", *(part for target in targets for part in (target, "H"))]
    return table(header, rows)


def shots(board: Board, targets: Sequence[str], methods: Sequence[str]) -> list[str]:
    """H by the number of shots."""
    rows = [
        [
            escape(board.methods[method].info.title) if method not in PARTS else PARTS[method],
            target,
            *(figure(board.standing(method, (SOURCE, target), n), "h") for n in board.shots),
        ]
        for target in targets
        for method in methods
    ]
    return table(["Method", "Target", *map(str, board.shots)], rows, left=(0, 1))


def styles(target: str) -> list[str]:
    """Accuracy on the target under another style; modules as they were for the task itself."""
    board = Board(REPORTED.folder, ("mini-objects",), REPORTED.seeds)
    rows = []
    for method in (OWN, "tcp", "clip_lora", "taskres", REFERENCE, "zeroshot"):
        found = [board.standing(method, (SOURCE, target), 16, style) for style in STYLES]
        means = [one.mean("target") for one in found]
        values = [mean.value for mean in means if mean is not None]
        title = escape(board.methods[method].info.title)
        rows.append([title, *(f"{v:.1f}" for v in values), f"{sum(values) / len(values):.1f}"])
    names = [style.removeprefix("mini-objects-") for style in STYLES]
    return table([target, *names, "mean"], rows)


def fill(page: str) -> str:
    """The page with every table between its marks."""
    joined, anew = ("mini-eva-clip", "mini-clip-next"), ("mini-eva-clip", "mini-eva-clip-anew")
    sections = {
        "development": compare(DEVELOPED, joined[::-1]),
        "development-parts": vary([DEVELOPED], joined),
        "development-shots": shots(BY_SHOTS, joined, [OWN, "rosetta_first", "zeroshot"]),
        "held-out": compare(REPORTED, anew),
        "held-out-parts": vary([VARIED, REPORTED], anew),
        "no-lineage": compare(STRANGER, ("mini-clip-other",)),
        "styles": [*styles(anew[0]), "", *styles(anew[1])],
        "shots": shots(SHOTS, anew, [OWN, "taskres", "tip_adapter_f", "kgcoop", "zeroshot"]),
    }
    for name, lines in sections.items():
        page = fill_section(page, name, "\n".join(lines))
    return page


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
