"""Several new models side by side: what becomes of modules on each, and which model to take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.backbone.load.find_weights import find_weights
from compatbench.data.cards import COPIED, backbone_cards
from compatbench.engine.model_size import measure_model
from compatbench.errors import CompatbenchError
from compatbench.extras.advice.cases import OLD, ZERO_SHOT, Case
from compatbench.extras.advice.verdicts import act, judge
from compatbench.results.choice import Way, choose_checked, choose_way
from compatbench.results.estimate import Interval, interval_columns
from compatbench.results.ways import cost_of
from compatbench.tables.numbers import with_interval
from compatbench.tables.table import Table, plain_table

TIMED_IMAGES, TIMES = 16, 5
Facts = Mapping[str, Any]


def backbones_here(source: str) -> list[str]:
    """The backbones, other than the source, whose weights are on this machine."""

    def is_here(name: str) -> bool:
        try:
            find_weights(backbone_cards.read(name))
        except CompatbenchError:
            return False
        return True

    return [name for name in backbone_cards.names() if name != source and is_here(name)]


def describe_target(name: str, device: str | None = None) -> dict[str, Any]:
    """What a new model costs: its size in parameters, width, and licence.

    With a device the model is loaded, and ``tokens``, the longest text, and ``image_seconds``, to
    encode an image there, are known, too.
    """
    size, card = measure_model(name), backbone_cards.read(name)
    facts = dict[str, Any].fromkeys(("tokens", "image_seconds", "parameters", "width"))
    if size is not None:
        facts |= {"parameters": size.parameters, "width": size.embed_dim}
    if device is not None:
        backbone = load_backbone(name, resolve_device(device))
        facts |= {"width": backbone.embed_dim, "tokens": backbone.text.context_length}
        facts["image_seconds"] = _time_image(backbone)
    return facts | {"licence": card.licence}


def _time_image(backbone: Backbone) -> float:
    """Seconds to encode one image of a batch, the fastest of five times."""
    images = torch.zeros(TIMED_IMAGES, 3, *backbone.image_sides, device=backbone.device)
    taken = []
    for _ in range(TIMES):
        start = time.perf_counter()
        float(backbone.encode_images(images).sum())  # waits for the device
        taken.append((time.perf_counter() - start) / TIMED_IMAGES)
    return round(min(taken), 4)


@dataclass(frozen=True)
class _Outcome:
    """What to do on one target, and of which case."""

    case: Case
    verdict: str
    transfer: str  # "" for zero-shot
    survives: int  # of its methods: those whose modules, untouched, gain over zero-shot
    methods: int

    @property
    def way(self) -> str:
        """Where its accuracy stands in the case."""
        return OLD if self.verdict == "stay" else self.transfer or ZERO_SHOT

    def over_old(self) -> Interval | None:
        return self.case.estimate(self.transfer or ZERO_SHOT, OLD)


def compare_targets(cases: Sequence[Case], facts: Mapping[str, Facts]) -> list[dict[str, Any]]:
    """A row for each target, first the one to take, if that can be told; then by accuracy.

    It is chosen as a way is: of the models on which the chosen way is more accurate than the
    module on the old model by a whole interval, the one whose way is cheapest and that is not
    clearly worse than the best.
    """
    outcomes = {
        target: _outcome([case for case in cases if case.upgrade[1] == target])
        for target in sorted({case.upgrade[1] for case in cases})
    }
    chosen = _choose(outcomes, facts)
    rows = [
        {
            "target": target,
            "chosen": target == chosen,
            "verdict": each.verdict,
            "method": each.case.method,
            "transfer": each.transfer,
            "survives": each.survives,
            "methods": each.methods,
            **interval_columns("expected", each.case.estimate(each.way)),
            **interval_columns("gain", each.case.estimate(each.way, ZERO_SHOT)),
            **interval_columns("over_old", each.over_old()),
            **facts[target],
        }
        for target, each in outcomes.items()
    ]
    # Where accuracy is not known it counts as less than none.
    return sorted(rows, key=lambda row: (not row["chosen"], -(row["expected"] or -1.0)))


def _outcome(cases: Sequence[Case]) -> _Outcome:
    """The verdict on one target: a module's own, or that of the best way of several methods."""
    gains = [case.estimate(COPIED, ZERO_SHOT) for case in cases]
    survives = sum(gain is not None and gain.sign == 1 for gain in gains), len(cases)
    if len(cases) == 1:
        row = judge(cases[0])
        return _Outcome(cases[0], row["verdict"], row["transfer"], *survives)
    ways = [
        (case, Way(name, gain, cost_of(name), case.accuracy[name]))
        for case in cases
        for name in case.ways
        if (gain := case.estimate(name, ZERO_SHOT)) is not None
    ]
    if not ways:
        return _Outcome(cases[0], "unknown", "", *survives)
    by_task = [way.figures.mean(axis=0) - case.accuracy[ZERO_SHOT][0] for case, way in ways]
    shown, _ = choose_checked([way for _, way in ways], by_task, cases[0].difference)
    likely = shown or max((way for _, way in ways), key=lambda way: way.gain.value)
    case = next(case for case, way in ways if way is likely)
    over_old = case.estimate(likely.name, OLD)
    verdict = act(likely.name) if shown else "cannot tell"
    if shown and over_old is not None and over_old.sign == -1:
        verdict = "stay"
    return _Outcome(case, verdict, likely.name, *survives)


def _choose(outcomes: Mapping[str, _Outcome], facts: Mapping[str, Facts]) -> str | None:
    """The target to take; None where no upgrade is known to gain, or where that cannot be told."""
    ways = [
        Way(
            target,
            gain,
            (*cost_of(each.transfer or COPIED)[:2], facts[target]["parameters"] or 0),
            each.case.accuracy[each.transfer or ZERO_SHOT],
        )
        for target, each in outcomes.items()
        if each.verdict not in ("unknown", "stay") and (gain := each.over_old())
    ]
    chosen = choose_way(ways, next(iter(outcomes.values())).case.difference)
    return chosen and chosen.name


def target_table(rows: Sequence[Facts]) -> Table:
    """A line for each target; columns of which nothing is known are left out."""
    columns: dict[str, list[str]] = {
        "new model": [row["target"] for row in rows],
        "do": [_do(row) for row in rows],
        "expect": [_show(row["expected"], "{:.1f}") for row in rows],
        "over the old": [with_interval(row, "over_old", "{:+.1f}".format) for row in rows],
        "survive": [f"{row['survives']} of {row['methods']}" for row in rows],
        "size": [_show(row["parameters"], "{:.0f} M", 1e-6) for row in rows],
        "width": [_show(row["width"], "{}") for row in rows],
        "tokens": [_show(row["tokens"], "{}") for row in rows],
        "image": [_show(row["image_seconds"], "{:.1f} ms", 1000) for row in rows],
        "licence": [row["licence"] for row in rows],
    }
    if all(row["methods"] == 1 for row in rows):
        del columns["survive"]
    known = {name: cells for name, cells in columns.items() if any(cells)}
    table = plain_table(list(known), zip(*known.values(), strict=True), left=(0, 1))
    return replace(table, narrow=("licence", "tokens", "width"))


def _do(row: Facts) -> str:
    """The verdict with its way, and in a suite with its method."""
    done = row["verdict"]
    if done in ("port", "retrain"):
        done = f"{done}, {row['transfer']}"
    return f"{row['method']}: {done}" if row["methods"] > 1 else done


def _show(value: float | None, form: str, scale: float = 1) -> str:
    return "" if value is None else form.format(value if scale == 1 else value * scale)


def say_which(rows: Sequence[Facts]) -> str:
    """Which target to take, in a sentence."""
    if rows[0]["chosen"]:
        return (
            f"Take {rows[0]['target']}: of the models on which the module is more accurate than on "
            "the old one, the cheapest that is not clearly worse than the best."
        )
    return "Which new model to take cannot be told: on none is more accuracy shown than on the old."
