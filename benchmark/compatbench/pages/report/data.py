"""What the figures show, taken from the results of a suite; drawing computes nothing more.

Figures are rounded to four decimals, so that a picture cannot depend on the last digit of a sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from compatbench.data.cards.suite import COPIED
from compatbench.pages.markdown import one_line
from compatbench.pages.suitepage import SuitePage
from compatbench.results.intervals import rank_datasets
from compatbench.results.measures import Mean, Measure, Standing, Upgrade, compute_standing
from compatbench.results.rank_tests import rank_cliques
from compatbench.results.ranks import Ranked, rank_methods
from compatbench.results.store import MethodResults

FOUNDING_PAPER = "arXiv:2412.20895"

Kind = Literal["floor", "shallow", "deep", "aligned"]


@dataclass(frozen=True)
class MethodFigures:
    """A method on one upgrade; accuracies in percent, gains in points.

    Attributes:
        rank: its place among methods of its sort; empty if it has no H.
        base: title of the method that a re-attached module is one of; empty for all others.
        founding: whether the founding paper is its own.
        source, target, h, gain: means over datasets and seeds; None if any cell is missing.
        gains, hs: one per task, means over seeds.
        parameters: of its largest module.
        seconds: mean wall clock of a fit.
    """

    title: str
    kind: Kind
    rank: str
    source: float | None
    target: float | None
    h: float | None
    gain: float | None
    gains: tuple[float | None, ...]
    hs: tuple[float | None, ...]
    parameters: int | None
    seconds: float | None
    base: str = ""
    founding: bool = False


@dataclass(frozen=True)
class RankFigures:
    """Average ranks by H over datasets, and what Nemenyi's test can tell apart.

    Attributes:
        methods: title, kind and average rank, the best first.
        cliques: first and last place of each group that cannot be told apart.
        difference: the critical difference.
    """

    methods: tuple[tuple[str, Kind, float], ...]
    cliques: tuple[tuple[int, int], ...]
    difference: float
    datasets: int


@dataclass(frozen=True)
class UpgradeFigures:
    """All methods of a suite on one upgrade, in the order of its table.

    Attributes:
        zero_shot: of source and target, mean over tasks; None if no method was measured.
        ranks: None if there are too few methods or datasets.
    """

    source: str
    target: str
    shots: int
    tasks: tuple[str, ...]
    methods: tuple[MethodFigures, ...]
    zero_shot: tuple[float, float] | None
    ranks: RankFigures | None

    @property
    def complete(self) -> tuple[MethodFigures, ...]:
        """The methods that have an H, re-attached modules among them."""
        return tuple(one for one in self.methods if one.h is not None)

    @property
    def plain(self) -> tuple[MethodFigures, ...]:
        """The methods that have an H, without re-attached modules."""
        return tuple(one for one in self.complete if one.kind != "aligned")

    @property
    def timeless(self) -> UpgradeFigures:
        """The same without times, which differ from run to run: for figures that show none."""
        return replace(self, methods=tuple(replace(one, seconds=None) for one in self.methods))


@dataclass(frozen=True)
class Curve:
    """A method along shots, or along the steps of a path; None where a cell is missing."""

    title: str
    kind: Kind
    source: tuple[float | None, ...]
    target: tuple[float | None, ...]
    h: tuple[float | None, ...]


@dataclass(frozen=True)
class ShotsFigures:
    """All methods of one upgrade by number of shots, the best at the most shots first."""

    source: str
    target: str
    shots: tuple[int, ...]
    curves: tuple[Curve, ...]
    zero_shot: tuple[float, float] | None


@dataclass(frozen=True)
class PathLine:
    """A method's gain over zero-shot at every backbone of a path, the source first."""

    title: str
    kind: Kind
    gains: tuple[float, ...]


@dataclass(frozen=True)
class PathFigures:
    """All methods along one path, the least loss first.

    Attributes:
        backbones: titles, the source first.
        left_out: methods that lack a cell of some step.
    """

    backbones: tuple[str, ...]
    shots: int
    lines: tuple[PathLine, ...]
    left_out: int


def kind_of(one: MethodResults | Standing) -> Kind:
    """What marks and places a method has; modules with a map before them have their own."""
    if one.transfer != COPIED:
        return "aligned"
    return "floor" if one.info.depth == "none" else one.info.depth


def show_title(one: MethodResults | Standing) -> str:
    """The title as figures and pages print it: one line, not long."""
    return one_line(one.title, longest=40) or one.info.name


def real_upgrades(page: SuitePage) -> list[Upgrade]:
    """The suite's upgrades; a module that was made on the target again is no upgrade."""
    return [pair for pair in page.expected.upgrades if pair[0] != pair[1]]


def rank_aligned(page: SuitePage, upgrade: Upgrade, shots: int) -> list[Ranked]:
    """The methods that are attached through a map, ranked among themselves."""
    return rank_methods(page.standings(page.aligned, upgrade, shots))


def upgrade_figures(page: SuitePage, upgrade: Upgrade, shots: int) -> UpgradeFigures:
    """What the figures of one upgrade show."""
    ranked = [*page.ranks(upgrade, shots), *rank_aligned(page, upgrade, shots)]
    titles = {name: show_title(one) for name, one in page.results.methods.items()}
    source, target = upgrade
    return UpgradeFigures(
        one_line(page.backbone_title(source), 60),
        one_line(page.backbone_title(target), 60),
        shots,
        tuple(one_line(page.task_title(task), 24) for task in page.expected.tasks),
        tuple(_method_figures(one, page.expected.tasks, titles) for one in ranked),
        _zero_shot([one.standing for one in ranked]),
        _rank_figures(page.ranks(upgrade, shots)),
    )


def shots_figures(page: SuitePage, upgrade: Upgrade) -> ShotsFigures:
    """What the figure of accuracy against shots shows; methods without any H are left out."""
    counts = tuple(sorted(page.expected.shots))
    curves: list[Curve] = []
    standings: list[Standing] = []
    for method in page.results.all:
        along = [compute_standing(method, page.expected, upgrade, count) for count in counts]
        standings += along
        curve = Curve(
            show_title(method),
            kind_of(method),
            source=tuple(_mean(one, "source") for one in along),
            target=tuple(_mean(one, "target") for one in along),
            h=tuple(_mean(one, "h") for one in along),
        )
        if any(value is not None for value in curve.h):
            curves.append(curve)
    curves.sort(key=lambda one: (one.h[-1] is None, -(one.h[-1] or 0), one.title))
    source, target = (one_line(page.backbone_title(name), 60) for name in upgrade)
    return ShotsFigures(source, target, counts, tuple(curves), _zero_shot(standings))


def path_figures(page: SuitePage, path: Sequence[str]) -> PathFigures:
    """What the figures of a path show, at the largest number of shots."""
    shots = max(page.expected.shots)
    lines = []
    for method in page.results.all:
        gains = _path_gains(page, method, path, shots)
        present = [gain for gain in gains if gain is not None]
        if len(present) == len(gains):
            lines.append(PathLine(show_title(method), kind_of(method), tuple(present)))
    lines.sort(key=lambda one: (-one.gains[-1], one.title))
    titles = tuple(one_line(page.backbone_title(name), 60) for name in path)
    return PathFigures(titles, shots, tuple(lines), len(page.results.all) - len(lines))


def _path_gains(
    page: SuitePage, method: MethodResults, path: Sequence[str], shots: int
) -> list[float | None]:
    source, *targets = path
    along = [compute_standing(method, page.expected, (source, target), shots) for target in targets]
    return [_mean(along[0], "source_gain"), *(_mean(one, "gain") for one in along)]


def _method_figures(ranked: Ranked, tasks: Sequence[str], titles: dict[str, str]) -> MethodFigures:
    standing = ranked.standing
    info = standing.info
    counts = standing.parameters
    return MethodFigures(
        show_title(standing),
        kind_of(standing),
        ranked.rank,
        source=_mean(standing, "source"),
        target=_mean(standing, "target"),
        h=_mean(standing, "h"),
        gain=_mean(standing, "gain"),
        gains=tuple(_mean(standing, "gain", task) for task in tasks),
        hs=tuple(_mean(standing, "h", task) for task in tasks),
        parameters=None if counts is None else counts[1],
        seconds=None if standing.fit_seconds is None else round(standing.fit_seconds, 4),
        base="" if standing.transfer == COPIED else titles.get(info.name, ""),
        founding=info.paper == FOUNDING_PAPER,
    )


def _rank_figures(ranks: Sequence[Ranked]) -> RankFigures | None:
    found = rank_datasets(ranks)
    if found is None:
        return None
    standings, test = found
    cliques = rank_cliques(test.ranks, test.critical_difference)
    return RankFigures(
        tuple(
            (show_title(one), kind_of(one), round(rank, 4))
            for one, rank in zip(standings, test.ranks, strict=True)
        ),
        tuple((clique[0], clique[-1]) for clique in cliques),
        round(test.critical_difference, 4),
        test.datasets,
    )


def _zero_shot(standings: Iterable[Standing]) -> tuple[float, float] | None:
    """Zero-shot accuracy does not depend on the method: that of the first that was measured."""
    for one in standings:
        # One seed will do, and a method that lacks another seed is as good.
        first = one.first_seed
        means = [
            (_mean(first, "source"), _mean(first, "source_gain")),
            (_mean(first, "target"), _mean(first, "gain")),
        ]
        found = [round(a - gain, 4) for a, gain in means if a is not None and gain is not None]
        if len(found) == 2:
            return found[0], found[1]
    return None


def _mean(standing: Standing, measure: Measure, task: str | None = None) -> float | None:
    mean: Mean | None = standing.mean(measure, task)
    # Adding 0 makes -0.0 the 0 that it is.
    return None if mean is None else round(mean.value, 4) + 0.0
