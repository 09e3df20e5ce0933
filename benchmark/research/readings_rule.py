"""Measure how often the rule of ``results/readings.py`` finds the true reading of a file.

Linear probes and CoOp modules are trained under each reading, on tasks of the mini suite. Their
answers to draws of test images are given to the rule, as if the file did not say the reading.

    python benchmark/research/readings_rule.py             prints the table for the ranked tasks
    python benchmark/research/readings_rule.py --develop   for the development tasks
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

import compatbench as cb
from compatbench.data.cards import suite_cards
from compatbench.engine.single_module import Fitted
from compatbench.method import Module
from compatbench.method.predictions import Predictions
from compatbench.results.measures import Answers
from compatbench.results.readings import settle_readings

SOURCE = "mini-clip"
SHOTS = 4
PHOTOS = (20, 50, 200)
DRAWS = 20  # of the photos of one size
# By whether the usual reading, which the rule then takes, is the true one.
NOT_SHOWN = {True: "not shown, right", False: "not shown, wrong"}


@dataclass(frozen=True)
class Setting:
    """A setting that a file does not contain, with its readings; the usual one comes first."""

    method: str
    name: str
    readings: tuple[Any, ...]
    others: Mapping[str, Any]  # settings of the fit


SETTINGS = (
    Setting("linear_probe", "normalized", (False, True), {}),
    Setting(
        "coop", "position", ("end", "middle", "front"), {"context_length": 4, "max_steps": 100}
    ),
)


def fit_module(setting: Setting, task: str, reading: Any, seed: int) -> Module:
    """Return a module that was trained under a reading."""
    config = {**setting.others, setting.name: reading}
    return cb.fit(
        setting.method, task, SOURCE, shots=SHOTS, seed=seed, config=config, views=1, suite="mini"
    )


def answers_by_reading(setting: Setting, module: Module) -> dict[Any, Answers]:
    """Return a module's answers to all test images of its task under each reading."""
    answers = {}
    for reading in setting.readings:
        config = module.about["config"] | {setting.name: reading}
        read = Module(module.trained, module.stored, module.about | {"config": config})
        found = cb.evaluate(read, SOURCE).target
        assert found is not None
        answers[reading] = found
    return answers


def take(answers: Answers, images: Sequence[int]) -> Answers:
    """Return the answers to some of the images."""
    places = torch.tensor(images)

    def of(predictions: Predictions) -> Predictions:
        return Predictions(predictions.classes[places], predictions.confidence[places])

    return Answers(
        of(answers.predictions),
        None,
        of(answers.zero_shot),
        torch.as_tensor(answers.labels)[places],
    )


def choose(setting: Setting, answers: Mapping[Any, Answers]) -> tuple[Any, bool]:
    """Return the reading that the rule takes, and True if the images show that it is right."""
    imported = {"file": "", "notes": [], "undecided": {setting.name: [*setting.readings]}}
    config = {setting.name: setting.readings[0]}
    fitted = Fitted(method=setting.method, config=config, task="", source=SOURCE, imported=imported)
    settled = settle_readings(fitted, lambda config: answers[config[setting.name]])
    assert settled.imported is not None
    return settled.config[setting.name], settled.imported["readings"][setting.name]["is_shown"]


def measure_rule(setting: Setting, tasks: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each draw of photos: the true reading, and the one that the rule takes."""
    for task in tasks:
        for reading in setting.readings:
            every = answers_by_reading(setting, fit_module(setting, task, reading, seed))
            true = every[reading]
            total = len(true.predictions.classes)
            zero_shot = true.right(true.zero_shot).mean()
            gains = bool(true.right(true.predictions).mean() >= zero_shot)
            rng = np.random.default_rng(seed)
            for photos in PHOTOS:
                for _ in range(DRAWS):
                    images = rng.choice(total, min(photos, total), replace=False).tolist()
                    taken = {each: take(answers, images) for each, answers in every.items()}
                    chosen, is_shown = choose(setting, taken)
                    yield {
                        "setting": setting.name,
                        "photos": photos,
                        "gains": gains,
                        "outcome": judge(chosen == reading, is_shown),
                    }
            print(setting.name, task, reading, file=sys.stderr, flush=True)


def judge(is_right: bool, is_shown: bool) -> str:
    """Return the outcome of a draw: the rule is right or wrong, or the images do not show it."""
    if not is_shown:
        return NOT_SHOWN[is_right]
    return "right" if is_right else "wrong"


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each outcome in percent, ``[(setting, photos), outcome]``."""
    shares = rows.groupby(["setting", "photos"])["outcome"].value_counts(normalize=True)
    table = (100 * shares).unstack(fill_value=0)
    return table.reindex(columns=["right", "wrong", *NOT_SHOWN.values()], fill_value=0.0)


def main() -> None:
    suite = suite_cards.read("mini")
    tasks = suite.tasks
    seed = 1
    if "--develop" in sys.argv:
        tasks = suite.development
        seed = 11
    warnings.simplefilter("ignore")  # each choice of an unusual reading warns
    rows = []
    for setting in SETTINGS:
        rows += measure_rule(setting, tasks, seed)
    frame = pd.DataFrame(rows)
    print("All modules")
    print(summarise(frame).round(1).to_string())
    print("Modules that are not worse than zero-shot under their true reading")
    print(summarise(frame[frame["gains"]]).round(1).to_string())


if __name__ == "__main__":
    main()
