"""The bodies of ``compatbench analyze gauge`` and of the sections of ``docs/alignment.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from compatbench.backbone import load_backbone
from compatbench.cli.analyses import Output, choose_own_tasks, choose_tasks, print_json
from compatbench.cli.progress import RunProgress
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import load_task
from compatbench.engine.aligned_cells import plain_name
from compatbench.engine.cell import Cell
from compatbench.engine.configs import select_methods
from compatbench.engine.execute.device import count_cores, resolve_device
from compatbench.engine.execute.local import run_cells
from compatbench.engine.execute.settings import Settings
from compatbench.engine.plan import plan, plan_cells
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods
from compatbench.pages.publish import RESULTS
from compatbench.results.measures import Upgrade, upgrade_pairs
from compatbench.results.store import read_results
from compatbench.studies.aligned_gains import AlignedGain, aligned_gains
from compatbench.studies.alignment_drawings import draw_gains, draw_stress
from compatbench.studies.alignment_page import (
    describe_gauge,
    gauge_rows,
    render_gains,
    render_gauge,
    render_stress,
    stress_rows,
)
from compatbench.studies.gauge import GaugeReport, measure_gauge
from compatbench.studies.stress import RANDOM, Bench, Fitted, StressPoint
from compatbench.transfer.words import WordFeatures

# What the page's stress tests look at: a method of each kind, and prompts beside them.
PAGE_METHODS = "linear_probe,simpleshot,gda,clip_adapter,taskres,tip_adapter_f,kgcoop"
PAGE_SIZES = (32, 64, 96)
PAGE_ANGLES = "0,45,90,135,180,random"


@dataclass(frozen=True)
class Stress:
    """What is fitted for a stress test, and how the target is changed.

    Attributes:
        sizes: narrower joint spaces, in place of turns.
        words: whether to take parts of the word list, in place of turns.
        shots, seeds: those of the suite if None.
    """

    methods: str
    angles: str = PAGE_ANGLES
    turns: int = 3
    sizes: Sequence[int] | None = None
    words: bool = False
    shots: int | None = None
    seeds: Sequence[int] | None = None
    out: Path = Path()
    jobs: int | None = None


def gauge_command(
    console: Console,
    source: str,
    target: str,
    task: str | None,
    suite: str,
    stress: Stress | None,
    device: str,
    output: Output,
) -> None:
    """Prints the figures of a pair, and of the stress test if one is wanted.

    Raises:
        CompatbenchError: an unknown name, a wrong angle or size, or a fit that failed.
    """
    if output.figure is not None and stress is None:
        raise CompatbenchError("--figure shows the stress test; give --methods, too")
    points: list[StressPoint] = []
    if stress is not None:
        read_angles(stress.angles)
        if stress.sizes and stress.words:
            raise CompatbenchError("--sizes and --words: give one of the two")
    report = gauge_report(source, target, task, suite, device)
    if stress is not None:
        points = run_stress(Console(stderr=True), source, target, task, suite, stress, device)
    if output.form == "json":
        print_json({"gauge": asdict(report), "stress": [asdict(point) for point in points]})
    elif not output.print_rows(points or report.maps):
        _show_gauge(console, report)
        if points:
            console.print()
            _show_stress(console, points)
    if stress is not None:
        what = "narrowed" if stress.sizes else "by words" if stress.words else "turned"
        output.draw(lambda: draw_stress(points, f"{source} → {target}, {what}"))


def gauge_report(
    source: str, target: str, tasks: str | None, suite: str, device: str
) -> GaugeReport:
    """Loads both backbones and compares their joint spaces.

    Raises:
        CompatbenchError: an unknown name, or images that cannot be read.
    """
    on, folder = resolve_device(device), default_cache_folder()
    chosen = [load_task(name) for name in choose_tasks(tasks, suite)]
    return measure_gauge(
        load_backbone(source, on),
        load_backbone(target, on),
        chosen,
        FeatureCache(folder),
        WordFeatures(folder),
    )


def run_stress(
    console: Console,
    source: str,
    target: str,
    task: str | None,
    suite: str,
    stress: Stress,
    device: str,
) -> list[StressPoint]:
    """Fits what is not in the store yet, and measures it on the changed targets.

    Raises:
        CompatbenchError: an unknown name, a size that is not smaller, or a fit that failed.
    """
    on, folder = resolve_device(device), default_cache_folder()
    fitted = _fit(console, source, target, task, suite, stress, on)
    new = load_backbone(target, on)
    bench = Bench(
        load_backbone(source, on), new, fitted, FeatureCache(folder), WordFeatures(folder)
    )
    if stress.words:
        return bench.listed()
    if stress.sizes is None:
        return bench.turned(read_angles(stress.angles), stress.turns)
    if wide := [size for size in stress.sizes if size >= new.embed_dim]:
        raise CompatbenchError(
            f"--sizes {wide[0]}: the joint space of {target} has {new.embed_dim} directions; give "
            "fewer"
        )
    return bench.narrowed(stress.sizes)


def _fit(
    console: Console,
    source: str,
    target: str,
    task: str | None,
    suite: str,
    stress: Stress,
    device: str,
) -> list[Fitted]:
    if source == target:
        raise CompatbenchError(f"'{source}' is both source and target; an upgrade needs two")
    card = suite_cards.read(suite)
    registry = builtin_methods()
    names = dict.fromkeys(map(plain_name, select_methods(card, registry, stress.methods)))
    tasks = choose_own_tasks(task or ",".join(choose_tasks(None, suite)))
    changes = {"upgrades": ((source, target),), "variants": (), "tasks": tuple(tasks)}
    shots = [stress.shots or max(card.shots)]
    planned = plan_cells(
        card.model_copy(update=changes), registry, names, seeds=stress.seeds, shots=shots
    )
    cells = [replace(cell, backbones=(source,)) for cell in planned]
    store = RunStore(stress.out / "runs")
    left = [item.cell for item in plan(cells, store) if not item.done]
    if left:
        jobs = stress.jobs or (count_cores() if device == "cpu" else 1)
        with RunProgress(console, left, jobs, {}) as progress:
            settings = Settings(store.folder, default_cache_folder(), device)
            run_cells(left, settings, jobs, progress.on_event)
    return [_read_fitted(cell, store) for cell in cells]


def _read_fitted(cell: Cell, store: RunStore) -> Fitted:
    record = store.read(cell.key)
    module = store.read_module(record) if record is not None else None
    if record is None or module is None:
        why = record.error if record is not None else "it was not run"
        raise CompatbenchError(f"the fit of {cell} failed: {why}")
    cls = builtin_methods().get(cell.method)
    return Fitted(cell, cls(cls.Config.model_validate(cell.config)), module)


def read_angles(text: str) -> list[float | None]:
    """The angles that ``--angles`` names, in degrees; None for ``random``.

    Raises:
        CompatbenchError: something else, or a number beyond 0 to 180.
    """
    angles: list[float | None] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            angle = None if part == RANDOM else float(part)
        except ValueError:
            angle = -1.0
        if angle is not None and not 0 <= angle <= 180:
            raise CompatbenchError(
                f"--angles '{part}' is no angle; give degrees from 0 to 180, or '{RANDOM}'"
            )
        angles.append(angle)
    if not angles:
        raise CompatbenchError("--angles names no angle; give degrees from 0 to 180")
    return angles


def _show_gauge(console: Console, report: GaugeReport) -> None:
    header, *rows = gauge_rows(report)
    _print_table(console, header, rows)
    for line in describe_gauge(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _show_stress(console: Console, points: Sequence[StressPoint]) -> None:
    header, *rows = stress_rows(points, spreads=False)
    _print_table(console, header, rows)


def _print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for i, column in enumerate(header):
        table.add_column(column, justify="right" if i else "left", no_wrap=not i)
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False, markup=False)


def alignment_section(
    console: Console,
    name: str,
    folder: Path,
    suite: str,
    out: Path,
    jobs: int | None,
    device: str,
) -> str:
    """A section of ``docs/alignment.md``, its figure written into a folder beside the page.

    Raises:
        CompatbenchError: whatever an analysis finds wrong.
    """
    card = suite_cards.read(suite)
    pairs = upgrade_pairs(card.upgrades)
    output = Output(figure=folder / f"{name}.svg")
    picture = f"]({folder.name}/{name}.svg)\n\n"
    gains = _all_gains(card, out) if name in ("gauge", "aligned") else {}
    if name == "gauge":
        reports = [gauge_report(*pair, None, suite, device) for pair in gains]
        return "\n\n".join(map(render_gauge, reports))
    if name == "aligned":
        if not any(gains.values()):
            raise CompatbenchError(
                f"{out / RESULTS / suite} has no method both plain and aligned; run "
                f"'compatbench run --suite {suite} --methods \"*aligned\"' first"
            )
        output.draw(lambda: draw_gains(gains))
        body = "\n\n".join(render_gains(pair, found) for pair, found in gains.items())
        return f"![Target accuracy of copied and of aligned modules{picture}{body}"
    stress = Stress(PAGE_METHODS, seeds=card.seeds[:1], out=out, jobs=jobs)
    if name in ("sizes", "words"):
        changes = {"sizes": {"sizes": PAGE_SIZES}, "words": {"words": True}}[name]
        stress = replace(stress, **changes)
        found = [run_stress(console, *pair, None, suite, stress, device) for pair in pairs]
        return "\n\n".join(
            render_stress(pair, points, name) for pair, points in zip(pairs, found, strict=True)
        )
    points = run_stress(console, *pairs[0], None, suite, stress, device)
    output.draw(lambda: draw_stress(points, f"{' → '.join(pairs[0])}, turned"))
    body = render_stress(pairs[0], points, name)
    return f"![Accuracy on the target against the angle of the turn{picture}{body}"


def _all_gains(card: SuiteCard, out: Path) -> dict[Upgrade, list[AlignedGain]]:
    """What aligning gains on a suite's upgrades, and on others of the suites shown under it."""
    gains: dict[Upgrade, list[AlignedGain]] = {}
    sections = [
        one
        for one in map(suite_cards.read, suite_cards.names())
        if one.publish == "section" and one.extends == card.name
    ]
    for one in (card, *sections):
        results = read_results(out / RESULTS / one.name)
        for pair in upgrade_pairs(one.upgrades):
            found = aligned_gains(results, pair, max(one.shots))
            if one is card or found:
                gains.setdefault(pair, found)
    return gains
