"""Several new models side by side: what becomes of modules on each, and which model to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from compatbench.backbone.build import build_architecture
from compatbench.backbone.load.backbone_names import model_config, read_backbone
from compatbench.backbone.load.find_weights import find_weights
from compatbench.data.cards import COPIED, BackboneCard, backbone_cards
from compatbench.errors import CompatbenchError
from compatbench.extras.advice.measurements import Measurements, compare_upgrades
from compatbench.results.choice import choose_by_gain, choose_option, decide, judge_effect
from compatbench.results.costs import cost_of, cost_table
from compatbench.results.differences import ZERO_SHOT
from compatbench.results.estimate import Interval, interval_columns
from compatbench.results.options import option_name
from compatbench.results.verdict_lines import Case
from compatbench.tables.numbers import with_interval
from compatbench.tables.table import Table, plain_table

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


def describe_target(name: str) -> dict[str, Any]:
    """Return what a new model costs: parameters, width, tokens of the longest text, and licence.

    The model is not loaded. What only its files show is None.
    """
    card = read_backbone(name)
    return {**_describe_architecture(card), "licence": card.licence}


def _describe_architecture(card: BackboneCard) -> dict[str, int | None]:
    """Return the sizes of a model of open_clip, built without memory for its weights.

    They are None for other models, and where another library would download a part.
    """
    config = model_config(card)
    text: dict[str, Any] = config.get("text_cfg", {})
    if not config or "hf_model_name" in text:
        return {"parameters": None, "width": None, "tokens": None}
    model = build_architecture(card, device="meta")
    parameters = sum(weights.numel() for weights in model.parameters())
    return {
        "parameters": parameters,
        "width": config["embed_dim"],
        "tokens": text.get("context_length", 77),
    }


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
        judged[measured.upgrade[1]] = judge_target(measured)
    chosen = _choose_target(judged, facts, every)
    rows = []
    measurements = {measured.upgrade[1]: measured for measured in every}
    for target, of_target in judged.items():
        measured = measurements[target]
        decision = of_target.decision
        expected = decision.option or ZERO_SHOT
        if decision.verdict == "stay":
            expected = of_target.old
        gains = [
            measured.difference(option_name(method, COPIED), ZERO_SHOT)
            for method in measured.methods
        ]
        rows.append(
            {
                "target": target,
                "chosen": target == chosen,
                "verdict": decision.verdict,
                "method": of_target.module,
                "transfer": of_target.transfer if decision.option else "",
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


def _choose_target(
    judged: Mapping[str, Case], facts: Mapping[str, Facts], every: Sequence[Measurements]
) -> str:
    """Return the target to take; empty if none is shown to be better than the old model."""
    gains = {}
    costs = {}
    for target, case in judged.items():
        decision = case.decision
        if decision.verdict in ("unknown", "stay") or decision.over_old is None:
            continue
        gains[target] = decision.over_old
        labels, old_model, *_ = cost_of(case.transfer if decision.option else COPIED)
        costs[target] = (labels, old_model, facts[target]["parameters"] or 0)
    measurements = {measured.upgrade[1]: measured for measured in every}

    def difference(target: str, minus: str | None) -> Interval | None:
        assert minus is not None
        return compare_upgrades(
            measurements[target],
            judged[target].decision.option or ZERO_SHOT,
            measurements[minus],
            judged[minus].decision.option or ZERO_SHOT,
        )

    return choose_by_gain(gains, costs, difference).option


def judge_target(measured: Measurements) -> Case:
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
    option = options.loc[decision.option or decision.likely or options.index[0]]
    refusals = [str(reason) for reason in options["reason"] if reason]
    return Case(
        decision=decision,
        difference=measured.difference,
        upgrade=measured.upgrade,
        module=str(option["method"]),
        transfer=str(option["transfer"]),
        old=str(option["old"]),
        units=measured.units,
        refusal=refusals[0] if len(refusals) == len(options) else "",
        is_null=measured.is_null(options.index),
    )


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
