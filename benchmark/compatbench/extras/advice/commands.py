"""What ``compatbench advise`` and ``predict`` print."""

from __future__ import annotations

from rich.markup import escape

from compatbench.cli.command import Call
from compatbench.cli.output import print_table, say, show_table
from compatbench.extras.advice.targets import target_table


def advise(call: Call) -> None:
    """Says the verdicts in words; before them the table of the targets, if some are compared."""
    advice = call()
    if call.prints_json(advice.targets if advice.facts else advice.frame):
        return
    if advice.facts:
        show_table(target_table(advice.targets.to_dict("records")))
    say(escape(str(advice)))


def predict(call: Call) -> None:
    """Shows the gain of every way, and what to do."""
    prediction = call()
    if call.prints_json(prediction):
        return
    known = "the models alone"
    if prediction.images:
        known = f"{prediction.images:,} images without labels"
    fitted = prediction.fitted
    upgrade = f"{fitted.source} → {prediction.backbone}"
    say(escape(f"{fitted.method}, {fitted.task}: {upgrade}, from {known}"))
    rows = [(outlook.transfer, str(outlook.gain or outlook.reason)) for outlook in prediction.ways]
    print_table(["way", "gain over zero-shot, points (90 %)"], rows)
    say(f"Advice: {prediction.advice}. Fitted on miniature models; see docs/predict.md.")
