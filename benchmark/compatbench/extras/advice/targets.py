"""Several new models side by side: what becomes of modules on each, and which model to take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.build import build_architecture
from compatbench.backbone.device import resolve_device
from compatbench.backbone.load.backbone_names import model_config
from compatbench.backbone.load.find_weights import find_weights
from compatbench.data.cards import COPIED, BackboneCard, backbone_cards
from compatbench.errors import CompatbenchError
from compatbench.extras.advice.measurements import Measurements, compare_upgrades
from compatbench.results.choice import Decision, choose_by_gain, choose_option, decide, judge_effect
from compatbench.results.costs import cost_of, cost_table
from compatbench.results.differences import OLD, ZERO_SHOT
from compatbench.results.estimate import Interval, interval_columns
from compatbench.results.options import option_name
from compatbench.tables.numbers import with_interval
from compatbench.tables.table import Table, plain_table

TIMED_IMAGES = 16
TIMES = 5
Facts = Mapping[str, Any]


def backbones_here(source: str) -> list[str]:
    """Return the backbones, other than the source, whose weights are on this machine."""

    def is_here(name: str) -> bool:
        try:
            find_weights(backbone_cards.read(name))
        except CompatbenchError:
            return False
        return True

    return [name for name in backbone_cards.names() if name != source and is_here(name)]


def describe_target(name: str, device: str | None = None) -> dict[str, Any]:
    """Return what a new model costs: its size in parameters, width, and licence.

    With a device the model is loaded, and ``tokens``, the longest text, and ``image_seconds``, to
    encode an image there, are known, too.
    """
    card = backbone_cards.read(name)
    facts = dict[str, Any].fromkeys(("tokens", "image_seconds"))
    facts |= _describe_architecture(card)
    if device is not None:
        backbone = load_backbone(name, resolve_device(device))
        facts |= {"width": backbone.embed_dim, "tokens": backbone.text.context_length}
        facts["image_seconds"] = _time_image(backbone)
    return facts | {"licence": card.licence}


def _describe_architecture(card: BackboneCard) -> dict[str, int | None]:
    """Return parameters and width of a model of open_clip, built without memory for its weights.

    They are None for other models, and where another library would download a part.
    """
    config = model_config(card)
    if not config or "hf_model_name" in config.get("text_cfg", {}):
        return {"parameters": None, "width": None}
    model = build_architecture(card, device="meta")
    parameters = sum(weights.numel() for weights in model.parameters())
    return {"parameters": parameters, "width": config["embed_dim"]}


def _time_image(backbone: Backbone) -> float:
    """Return the seconds to encode one image of a batch, the fastest of five times."""
    images = torch.zeros(TIMED_IMAGES, 3, *backbone.image_sides, device=backbone.device)
    taken = []
    for _ in range(TIMES):
        start = time.perf_counter()
        float(backbone.encode_images(images).sum())  # waits for the device
        taken.append((time.perf_counter() - start) / TIMED_IMAGES)
    return round(min(taken), 4)


@dataclass(frozen=True)
class _Judged:
    """The verdict on one target."""

    measured: Measurements
    method: str  # of which the verdict is
    transfer: str  # empty for zero-shot
    decision: Decision

    @property
    def taken(self) -> str:
        """Return what is used on the new model."""
        return self.decision.option or ZERO_SHOT


def compare_targets(
    every: Sequence[Measurements], facts: Mapping[str, Facts]
) -> list[dict[str, Any]]:
    """Return a row for each target, first the one to take, if one is chosen; then by accuracy.

    It is chosen as an option is: of the models on which the option to take is significantly more
    accurate than the module on the old model, the one whose option is cheapest and that is not
    significantly worse than the best.
    """
    judged = {}
    for measured in sorted(every, key=lambda each: each.upgrade[1]):
        judged[measured.upgrade[1]] = _judge_target(measured)
    chosen = _choose_target(judged, facts)
    rows = []
    for target, of_target in judged.items():
        measured = of_target.measured
        decision = of_target.decision
        expected = of_target.taken
        if decision.verdict == "stay":
            expected = option_name(of_target.method, OLD)
        gains = [
            measured.difference(option_name(method, COPIED), ZERO_SHOT)
            for method in measured.methods
        ]
        rows.append(
            {
                "target": target,
                "chosen": target == chosen,
                "verdict": decision.verdict,
                "method": of_target.method,
                "transfer": of_target.transfer,
                "survives": sum(judge_effect(gain) == "gains" for gain in gains),
                "methods": len(measured.methods),
                **interval_columns("expected", measured.difference(expected, None)),
                **interval_columns("gain", _gain(measured, expected)),
                **interval_columns("over_old", decision.over_old),
                **facts[target],
            }
        )
    # Where accuracy is not known it counts as less than none.
    return sorted(rows, key=lambda row: (not row["chosen"], -(row["expected"] or -1.0)))


def _gain(measured: Measurements, option: str) -> Interval | None:
    return None if option == ZERO_SHOT else measured.difference(option, ZERO_SHOT)


def _choose_target(judged: Mapping[str, _Judged], facts: Mapping[str, Facts]) -> str:
    """Return the target to take; empty if none is shown to be better than the old model."""
    gains = {}
    costs = {}
    for target, of_target in judged.items():
        over_old = of_target.decision.over_old
        if of_target.decision.verdict in ("unknown", "stay") or over_old is None:
            continue
        gains[target] = over_old
        labels, old_model, *_ = cost_of(of_target.transfer or COPIED)
        costs[target] = (labels, old_model, facts[target]["parameters"] or 0)

    def difference(target: str, minus: str | None) -> Interval | None:
        assert minus is not None
        return compare_upgrades(
            judged[target].measured,
            judged[target].taken,
            judged[minus].measured,
            judged[minus].taken,
        )

    return choose_by_gain(gains, costs, difference).option


def _judge_target(measured: Measurements) -> _Judged:
    """Return the verdict on one target: a module's own, or that of the best of several methods."""
    options = measured.options
    choice = None
    if len(measured.methods) > 1:
        scores = measured.scores.reindex(options.index).dropna()
        if len(scores):
            costs = cost_table(options)
            zero_shot = measured.scores.loc[ZERO_SHOT]
            by_image = None if measured.right is None else measured.difference
            choice = choose_option(scores, zero_shot, costs, by_image)
    decision = decide(options, measured.difference, choice)
    option = decision.option or decision.likely or options.index[0]
    method = str(options.loc[option, "method"])
    transfer = ""
    if decision.option:
        transfer = str(options.loc[decision.option, "transfer"])
    return _Judged(measured, method, transfer, decision)


def target_table(rows: Sequence[Facts]) -> Table:
    """Return a line for each target; columns of which nothing is known are left out."""
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
    """Return the verdict with its transfer, and in a suite with its method."""
    done = row["verdict"]
    if done in ("port", "retrain"):
        done = f"{done}, {row['transfer']}"
    return f"{row['method']}: {done}" if row["methods"] > 1 else done


def _show(value: float | None, form: str, scale: float = 1) -> str:
    return "" if value is None else form.format(value if scale == 1 else value * scale)


def say_which(rows: Sequence[Facts]) -> str:
    """Return which target to take, in a sentence."""
    if rows[0]["chosen"]:
        return (
            f"Take {rows[0]['target']}: of the models on which the module is more accurate than on "
            "the old one, the cheapest that is not significantly worse than the best."
        )
    return "We cannot tell which new model to take: none is shown to be better than the old one."
