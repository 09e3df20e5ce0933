"""How a method's settings were chosen: ``results/<suite>/tuning/<method>.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError, model_validator

from compatbench.data.cards import BackboneName, ConfigName, Name, SuiteCard
from compatbench.data.cards.shots import Seed, Shots
from compatbench.engine.cell import MadeBy, MadeWith
from compatbench.errors import CompatbenchError
from compatbench.files.kinds import require
from compatbench.messages import first_problem
from compatbench.results.result_files import RESULTS, TUNING
from compatbench.results.rows import Count

FIELDS = ("rate", "length", "training")  # of a setting


class Setting(BaseModel):
    """What a search changes of a method's published recipe and of a suite's training."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rate: PositiveFloat = 1.0  # times the published rate
    length: PositiveFloat = 1.0  # times the published epochs; the suite's cap on steps holds
    training: dict[str, Any] = {}  # what differs from the suite's

    @property
    def label(self) -> str:
        """A name for it, as configs may have it."""
        parts = [f"rate-{self.rate:g}", f"length-{self.length:g}"]
        for field, value in self.training.items():
            values = value if isinstance(value, (list, tuple)) else [value]
            parts.append("-".join([field, *map(str, values)]))
        return "+".join(parts)

    def changes(self, config: BaseModel) -> dict[str, Any]:
        """What a suite says of a method with it, given the method's published settings."""
        recipe: dict[str, Any] = {}
        published = getattr(config, "recipe", None)
        if published is not None and self.rate != 1:
            recipe["lr"] = float(f"{published.lr * self.rate:.6g}")
        if published is not None and self.length != 1:
            recipe["epochs"] = scale_epochs(published.epochs, self.length)
        parts = {"recipe": recipe, "training": self.training}
        return {name: values for name, values in parts.items() if values}


def scale_epochs(epochs: int | dict[int, int], factor: float) -> int | dict[int, int]:
    """A recipe's epochs, times a factor, at least one."""
    if isinstance(epochs, int):
        return max(round(epochs * factor), 1)
    return {shots: max(round(number * factor), 1) for shots, number in epochs.items()}


class Tuning(BaseModel):
    """What was compared for a method in a suite, and the choice; the recipe's own setting is first.

    The setting of the highest accuracy is chosen, over tasks and seeds alike; but the recipe's own
    stays where the gain over it is no larger than the standard error of that gain.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[2] = 2
    suite: Name
    method: ConfigName
    version: int  # of the method, on its card
    source: BackboneName
    shots: Shots  # that each fit learns from
    tasks: tuple[Name, ...]
    seeds: tuple[Seed, ...]
    settings: tuple[Setting, ...]
    # Of each setting, by task and seed, the held-out images that are right; None: the fit failed.
    correct: tuple[tuple[Count | None, ...], ...]
    total: tuple[Count, ...]  # of how many
    chosen: Count  # the setting's number, from 0
    config: dict[str, Any]  # all settings of the method, with the chosen ones
    provenance: dict[MadeBy, MadeWith]

    @model_validator(mode="after")
    def _agree(self) -> Tuning:
        count = len(self.tasks) * len(self.seeds)
        if {len(each) for each in (self.total, *self.correct)} != {count} or count < 2:
            raise ValueError("there must be a count for each task and seed, and two at least")
        if len(self.settings) != len(self.correct) or self.settings[0] != Setting():
            raise ValueError("there must be counts for each setting, the recipe's own first")
        if any((n or 0) > most for counts in self.correct for n, most in zip(counts, self.total)):  # noqa: B905
            raise ValueError("more images are right than there are")
        if self.chosen != choose(self.frame):
            raise ValueError("'chosen' is not what the counts give")
        return self

    @property
    def frame(self) -> pd.DataFrame:
        """A row per setting: ``accuracy`` in percent, ``gain`` over the recipe's own in points.

        ``rate`` and ``length`` are times the published ones, ``training`` differs from the suite's.

        ``error`` is the standard error of the gain, over tasks and seeds. NaN where a fit failed.
        """
        accuracy = 100 * np.array(self.correct, dtype=float) / np.maximum(self.total, 1)
        gain = accuracy - accuracy[0]
        figures = {"accuracy": accuracy.mean(1), "gain": gain.mean(1)}
        figures["error"] = gain.std(axis=1, ddof=1) / np.sqrt(len(self.total))
        about = {name: [getattr(each, name) for each in self.settings] for name in FIELDS}
        return pd.DataFrame(about | figures)


def choose(frame: pd.DataFrame) -> int:
    """The number of the setting that the rule of ``Tuning`` chooses; ValueError if all failed."""
    if frame["accuracy"].isna().all():
        raise ValueError("every setting failed for some task and seed")
    best = int(frame["accuracy"].argmax())
    # If the recipe's own failed, there is no gain over it, and the best is chosen.
    return 0 if frame["gain"][best] <= frame["error"][best] else best


def tuning_path(out: Path, suite: str, method: str) -> Path:
    """Where the record of a method in a suite is."""
    folder = require(require(out / RESULTS / suite, "folder") / TUNING, "folder")
    return require(folder / f"{method}.json")


def is_tuned(out: Path, suite: SuiteCard, method: str, config: Any) -> bool:
    """Whether a record in ``results/`` has chosen these settings; a broken one is an error."""
    if not (path := tuning_path(out, suite.name, method)).is_file():
        return False
    record = read_record(path)
    training = suite.methods.get(method, {}).get("training", {})
    return record.config == config and record.settings[record.chosen].training == training


def read_record(path: Path) -> Tuning:
    """A record; a broken one is an error that names the field."""
    try:
        return Tuning.model_validate_json(path.read_bytes())
    except ValidationError as error:
        where, message = first_problem(error)
        raise CompatbenchError(f"{path}: '{where or 'file'}': {message}") from None


def show_record(tuning: Tuning) -> str:
    """A record as its file has it."""
    return json.dumps(tuning.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
