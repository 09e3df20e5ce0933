"""Collects what ``compatbench predict`` is fitted on: gains of modules, and what predicts them.

python benchmark/research/predict_rows.py FOLDER    # which has results/ and runs/
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd
import typer

from compatbench.backbone import load_backbone
from compatbench.data.cards import COPIED
from compatbench.data.task import task_labels
from compatbench.engine.predict import read_predictions
from compatbench.engine.store import RunStore
from compatbench.extras.advice.predict import describe_moves, measure_moves
from compatbench.files.atomic import write_atomic
from compatbench.method.predictions import Predictions
from compatbench.method.registry import builtin_methods, gate_transfer
from compatbench.results.result_files import read_results
from compatbench.transfers._shared.survival import (
    WORDS,
    FourAnswers,
    describe_answers,
    describe_module,
    measure_tokens,
)

ROWS = Path(__file__).parent / "results" / "survival.csv"
SUITES = ("mini-grid", "mini", "mini-lineage", "mini-no-lineage")
SEED = 1  # of each suite one seed, so that none outweighs the others
# What stands in a row beside the features.
PLACE = ["suite", "method", "transfer", "task", "source", "target"]
RIVALS = {"agreement": "agreement with the source", "doc": "DoC", "atc": "ATC"}


def collect_rows(out: Path) -> pd.DataFrame:
    """A row for each module on each target, by each way: its gain and its features.

    ``gated`` is the gain of the same way behind the gate, where a suite has measured it.

    Predictions are of the test images; of their labels only the counts of right answers are used:
    the target's in the ``gain``, the source's in ATC, a rival.
    """
    store, rows, seen = RunStore(out / "runs"), [], set()

    @cache
    def answers(key: str) -> dict[tuple[str, str], Predictions]:
        found = read_predictions(store.predictions_path(key), key)
        return {(backbone, test_set): one for (backbone, test_set, _), one in found.items()}

    models = cache(load_backbone)
    moves = cache(lambda old, new: measure_moves(models(old), models(new)))
    tokens = cache(lambda t, old, new: measure_tokens(models(old), models(new), task_labels(t)))
    gate_of = {way: gate_transfer(way) for way in (COPIED, WORDS)}
    for suite in SUITES:
        frame = read_results(out / "results" / suite).frame
        frame = frame[(frame["test_set"] == frame["task"]) & (frame["status"] == "ok")]
        # A config of a method stands for no other kind of module.
        frame = frame[frame["method"].isin(builtin_methods().names())]
        gates = frame[frame["transfer"].isin(gate_of.values()) & (frame["seed"] == SEED)]
        gates = gates.set_index(["transfer", "method", "task", "source", "backbone"])
        gated_gains = ((gates["correct"] - gates["zero_shot_correct"]) / gates["total"]).to_dict()
        frame = frame[frame["transfer"].isin([COPIED, WORDS])]
        right = frame.set_index(["key", "backbone"])["correct"]
        zero_shot = {}
        for one in frame[frame["method"] == "zeroshot"].itertuples():
            zero_shot[one.backbone, one.task] = answers(one.key)[one.backbone, one.task]
        moved = frame[(frame["backbone"] != frame["source"]) & (frame["seed"] == SEED)]
        for one in moved.itertuples():
            card = builtin_methods().get(one.method).card
            source, target = (one.source, one.task), (one.backbone, one.task)
            if card.depth == "none" or (one.key, one.backbone) in seen:
                continue
            seen.add((one.key, one.backbone))
            own = answers(one.key)
            four = FourAnswers(own[source], zero_shot[source], own[target], zero_shot[target])
            place = (suite, one.method, one.transfer, one.task, one.source, one.backbone)
            row = dict(zip(PLACE, place, strict=True))
            row["gain"] = (one.correct - one.zero_shot_correct) / one.total
            way = gate_of[one.transfer], one.method, one.task, one.source, one.backbone
            row["gated"] = gated_gains.get(way)
            row |= describe_answers(four, len(task_labels(one.task)))
            row |= _rivals(four, right[one.key, one.source] / one.total)
            pair = one.source, one.backbone
            apart = tokens(one.task, *pair)
            about = card.places, one.transfer, bool(card.zero_shot_at), apart
            row |= describe_moves(describe_module(*about), moves(*pair))
            rows.append(row)
    return pd.DataFrame(rows).sort_values(PLACE).round(4)


def _rivals(four: FourAnswers, accuracy: float) -> dict[str, float]:
    """The gain as label-free estimates of accuracy tell it, of the module less zero-shot.

    ATC's threshold is that which so many of the source's confidences exceed as answers are right.
    """
    threshold = four.source.confidence.double().quantile(1 - accuracy)
    sure, sure_zero = four.target.confidence, four.target_zero_shot.confidence
    old = four.source.classes
    agree = [(old == one.classes).double().mean() for one in (four.target, four.target_zero_shot)]
    return {
        "agreement": float(agree[0] - agree[1]),
        "doc": float(sure.mean() - sure_zero.mean()),
        "atc": float((sure > threshold).double().mean() - (sure_zero > threshold).double().mean()),
    }


def main(out: Path) -> None:
    """Write the rows of the suites' results and predictions in a folder."""
    rows = collect_rows(out)
    write_atomic(ROWS, rows.to_csv(index=False, lineterminator="\n").encode())
    print(f"wrote {len(rows)} rows to {ROWS}")


if __name__ == "__main__":
    typer.run(main)
