"""Several new models side by side: what becomes of modules on each, and which model to take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.build import build_architecture
from compatbench.backbone.device import resolve_device
from compatbench.backbone.load.backbone_names import model_config
from compatbench.backbone.load.find_weights import find_weights
from compatbench.data.cards import COPIED, BackboneCard, backbone_cards
from compatbench.errors import CompatbenchError
from compatbench.extras.advice.cases import OLD, ZERO_SHOT, Case
from compatbench.extras.advice.verdicts import act, judge
from compatbench.results.choice_of_ways import Way, choose_checked, choose_way
from compatbench.results.estimate import interval_columns
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
    """Seconds to encode one image of a batch, the fastest of five times."""
    images = torch.zeros(TIMED_IMAGES, 3, *backbone.image_sides, device=backbone.device)
    taken = []
    for _ in range(TIMES):
        start = time.perf_counter()
        float(backbone.encode_images(images).sum())  # waits for the device
        taken.append((time.perf_counter() - start) / TIMED_IMAGES)
    return round(min(taken), 4)


def compare_targets(cases: Sequence[Case], facts: Mapping[str, Facts]) -> list[dict[str, Any]]:
    """A row for each target, first the one to take, if that can be told; then by accuracy.

    It is chosen as a way is: of the models on which the chosen way is more accurate than the
    module on the old model by a whole interval, the one whose way is cheapest and that is not
    clearly worse than the best.
    """
    rows, ways, judged = list[dict[str, Any]](), list[Way](), list[Case]()
    for target in sorted({case.upgrade[1] for case in cases}):
        of_target = [case for case in cases if case.upgrade[1] == target]
        case, verdict, transfer = _judge_target(of_target)
        taken = transfer or ZERO_SHOT
        way, over_old = OLD if verdict == "stay" else taken, case.estimate(taken, OLD)
        untouched = [each.estimate(COPIED, ZERO_SHOT) for each in of_target]
        row = {
            "target": target,
            "chosen": False,
            "verdict": verdict,
            "method": case.method,
            "transfer": transfer,
            "survives": sum(gain is not None and gain.sign == 1 for gain in untouched),
            "methods": len(of_target),
            **interval_columns("expected", case.estimate(way)),
            **interval_columns("gain", case.estimate(way, ZERO_SHOT)),
            **interval_columns("over_old", over_old),
            **facts[target],
        }
        rows.append(row)
        judged.append(case)
        if verdict not in ("unknown", "stay") and over_old:
            cost = *cost_of(transfer or COPIED)[:2], row["parameters"] or 0
            ways.append(Way(target, over_old, cost, case.accuracy[taken]))
    if chosen := choose_way(ways, judged[0].difference):
        next(row for row in rows if row["target"] == chosen.name)["chosen"] = True
    # Where accuracy is not known it counts as less than none.
    return sorted(rows, key=lambda row: (not row["chosen"], -(row["expected"] or -1.0)))


def _judge_target(cases: Sequence[Case]) -> tuple[Case, str, str]:
    """The verdict on one target, of which case, and through what; empty for zero-shot.

    It is a module's own, or that of the best way of several methods.
    """
    if len(cases) == 1:
        row = judge(cases[0])
        return cases[0], row["verdict"], row["transfer"]
    ways = [
        (case, Way(name, gain, cost_of(name), case.accuracy[name]))
        for case in cases
        for name in case.ways
        if (gain := case.estimate(name, ZERO_SHOT)) is not None
    ]
    if not ways:
        return cases[0], "unknown", ""
    by_task = [way.figures.mean(axis=0) - case.accuracy[ZERO_SHOT][0] for case, way in ways]
    likely, shown, *_ = choose_checked([way for _, way in ways], by_task, cases[0].difference)
    case = next(case for case, way in ways if way is likely)
    over_old = case.estimate(likely.name, OLD)
    verdict = act(likely.name) if shown else "cannot tell"
    if shown and over_old is not None and over_old.sign == -1:
        verdict = "stay"
    return case, verdict, likely.name


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
