"""How a method's settings were chosen: ``results/<suite>/tuning/<method>.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    """The changes that a search makes to a method's published recipe and a suite's training."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rate: PositiveFloat = 1.0  # times the published rate
    length: PositiveFloat = 1.0  # times the published epochs; the suite's cap on steps holds
    training: dict[str, Any] = {}  # the fields that differ from the suite's

    @property
    def label(self) -> str:
        """Return a name for it that a config may have."""
        parts = [f"rate-{self.rate:g}", f"length-{self.length:g}"]
        for field, value in self.training.items():
            values = value if isinstance(value, (list, tuple)) else [value]
            parts.append("-".join([field, *map(str, values)]))
        return "+".join(parts)

    def changes(self, config: BaseModel) -> dict[str, Any]:
        """Return the suite's entry for a method with it, given its published settings."""
        recipe: dict[str, Any] = {}
        published = getattr(config, "recipe", None)
        if published is not None and self.rate != 1:
            recipe["lr"] = float(f"{published.lr * self.rate:.6g}")
        if published is not None and self.length != 1:
            recipe["epochs"] = scale_epochs(published.epochs, self.length)
        changes: dict[str, Any] = {}
        if recipe:
            changes["recipe"] = recipe
        if self.training:
            changes["training"] = self.training
        return changes


def scale_epochs(epochs: int | dict[int, int], factor: float) -> int | dict[int, int]:
    """Return a recipe's epochs times a factor, at least one."""
    if isinstance(epochs, int):
        return max(round(epochs * factor), 1)
    scaled = {}
    for shots, number in epochs.items():
        scaled[shots] = max(round(number * factor), 1)
    return scaled


class Tuning(BaseModel):
    """The settings of a method that were compared in a suite, and the chosen one.

    The recipe's own setting is first. It is kept unless the setting with the highest mean accuracy
    over tasks and seeds gains more over it than the standard error of that gain.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[2] = 2
    suite: Name
    method: ConfigName
    version: int  # of the method, on its card
    source: BackboneName
    shots: Shots  # each fit learns from as many images per class
    tasks: tuple[Name, ...]
    seeds: tuple[Seed, ...]
    settings: tuple[Setting, ...]
    # For each setting, the number of held-out images that are right, by task and seed. It is None
    # if the fit failed.
    correct: tuple[tuple[Count | None, ...], ...]
    total: tuple[Count, ...]  # the number of held-out images, by task and seed
    chosen: Count  # the setting's number, from 0
    config: dict[str, Any]  # all settings of the method, with the chosen ones
    provenance: dict[MadeBy, MadeWith]

    @model_validator(mode="after")
    def _agree(self) -> Tuning:
        draws = len(self.tasks) * len(self.seeds)
        lengths = {len(counts) for counts in (self.total, *self.correct)}
        if lengths != {draws} or draws < 2:
            raise ValueError("there must be a count for each task and seed, and two at least")
        if len(self.settings) != len(self.correct) or self.settings[0] != Setting():
            raise ValueError("there must be counts for each setting, the recipe's own first")
        for counts in self.correct:
            for correct, total in zip(counts, self.total, strict=True):
                if correct is not None and correct > total:
                    raise ValueError("more images are right than there are")
        if self.chosen != choose(self.frame):
            raise ValueError("'chosen' is not what the counts give")
        return self

    @property
    def frame(self) -> pd.DataFrame:
        """Return a row per setting: ``accuracy`` in percent, ``gain`` over the recipe's in points.

        ``rate`` and ``length`` are multiples of the published ones, and ``training`` has the fields
        that differ from the suite's. ``error`` is the standard error of the gain over tasks and
        seeds. Numbers are NaN where a fit failed.
        """
        accuracy = 100 * np.array(self.correct, dtype=float) / np.maximum(self.total, 1)
        gain = accuracy - accuracy[0]
        columns: dict[str, Any] = {}
        for name in FIELDS:
            columns[name] = [getattr(setting, name) for setting in self.settings]
        columns["accuracy"] = accuracy.mean(1)
        columns["gain"] = gain.mean(1)
        columns["error"] = gain.std(axis=1, ddof=1) / np.sqrt(len(self.total))
        return pd.DataFrame(columns)


def choose(frame: pd.DataFrame) -> int:
    """Return the number of the setting that the rule of ``Tuning`` chooses.

    Raises:
        ValueError: every setting failed.
    """
    if frame["accuracy"].isna().all():
        raise ValueError("every setting failed for some task and seed")
    best = int(frame["accuracy"].argmax())
    # If the recipe's own failed, the gain over it is NaN, and the best is chosen.
    if frame["gain"][best] <= frame["error"][best]:
        return 0
    return best


def tuning_path(out: Path, suite: str, method: str) -> Path:
    """Return the path of the record of a method in a suite."""
    suite_folder = require(out / RESULTS / suite, "folder")
    folder = require(suite_folder / TUNING, "folder")
    return require(folder / f"{method}.json")


def is_tuned(out: Path, suite: SuiteCard, method: str, config: Any) -> bool:
    """Return True if a record in ``results/`` has chosen these settings.

    Numbers of steps and epochs may differ: a suite may train longer with the chosen settings.

    Raises:
        CompatbenchError: the record is broken.
    """
    path = tuning_path(out, suite.name, method)
    if not path.is_file():
        return False
    record = read_record(path)
    training = suite.methods.get(method, {}).get("training", {})
    if record.settings[record.chosen].training != training:
        return False
    return _without_budget(record.config) == _without_budget(config)


def _without_budget(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's settings without those that say how long it is trained."""
    kept = {name: value for name, value in config.items() if name not in ("steps", "max_steps")}
    if isinstance(kept.get("recipe"), Mapping):
        kept["recipe"] = {**kept["recipe"], "epochs": None}
    return kept


def read_record(path: Path) -> Tuning:
    """Read a record; raise an error that names the field if it is broken."""
    try:
        return Tuning.model_validate_json(path.read_bytes())
    except ValidationError as error:
        where, message = first_problem(error)
        raise CompatbenchError(f"{path}: '{where or 'file'}': {message}") from None


def show_record(tuning: Tuning) -> str:
    """Return the text of a record's file."""
    return json.dumps(tuning.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
