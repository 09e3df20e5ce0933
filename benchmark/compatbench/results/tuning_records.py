"""How a method's rate and steps were chosen: ``results/<suite>/tuning/<method>.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from compatbench.data.cards import BackboneName, ConfigName, Name
from compatbench.data.cards.shots import Seed, Shots
from compatbench.engine.cell import Cell, provenance
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.files.kinds import require
from compatbench.messages import first_problem
from compatbench.results.result_files import RESULTS, TUNING
from compatbench.results.rows import Count, Row

if TYPE_CHECKING:
    from compatbench.engine.compute import Compute
    from compatbench.engine.execute.events import Event
    from compatbench.engine.matrix import Names
    from compatbench.engine.plan import Plan


class Tuning(BaseModel):
    """What was compared for a method in a suite, and the choice; the recipe's own setting is first.

    The setting of the highest accuracy is chosen, over tasks and seeds alike; but the recipe's own
    stays where the gain over it is no larger than the standard error of that gain.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    suite: Name
    method: ConfigName
    version: int  # of the method, on its card
    source: BackboneName
    shots: Shots  # that each fit learns from
    tasks: tuple[Name, ...]
    seeds: tuple[Seed, ...]
    lr: tuple[float | None, ...]  # of each setting; None: the method has no rate
    max_steps: tuple[int | None, ...]  # of each setting; None: no cap
    # Of each setting, by task and seed, the held-out images that are right; None: the fit failed.
    correct: tuple[tuple[Count | None, ...], ...]
    total: tuple[Count, ...]  # of how many
    chosen: Count  # the setting's number, from 0
    config: dict[str, Any]  # all settings of the method, with the chosen ones
    provenance: dict[str, str]

    @model_validator(mode="after")
    def _agree(self) -> Tuning:
        count = len(self.tasks) * len(self.seeds)
        if {len(each) for each in (self.total, *self.correct)} != {count} or count < 2:
            raise ValueError("there must be a count for each task and seed, and two at least")
        if any((n or 0) > most for one in self.correct for n, most in zip(one, self.total)):  # noqa: B905
            raise ValueError("more images are right than there are")
        if self.chosen != choose(self.frame):
            raise ValueError("'chosen' is not what the counts give")
        return self

    @property
    def frame(self) -> pd.DataFrame:
        """A row per setting: ``accuracy`` in percent, ``gain`` over the recipe's own in points.

        ``error`` is the standard error of the gain, over tasks and seeds. NaN where a fit failed.
        """
        accuracy = 100 * np.array(self.correct, dtype=float) / np.maximum(self.total, 1)
        gain = accuracy - accuracy[0]
        figures = {"accuracy": accuracy.mean(1), "gain": gain.mean(1)}
        figures["error"] = gain.std(axis=1, ddof=1) / np.sqrt(len(self.total))
        frame = pd.DataFrame({"lr": self.lr, "max_steps": self.max_steps} | figures)
        return frame.astype({"lr": float, "max_steps": "Int64"})


def choose(frame: pd.DataFrame) -> int:
    """The number of the setting that the rule of ``Tuning`` chooses; ValueError if all failed."""
    if frame["accuracy"].isna().all():
        raise ValueError("every setting failed for some task and seed")
    best = int(frame["accuracy"].argmax())
    # If the recipe's own failed, there is no gain over it, and the best is chosen.
    return 0 if frame["gain"][best] <= frame["error"][best] else best


def tune(
    methods: Names,
    suite: str = "mini",
    *,
    out: str | Path = ".",
    compute: Compute | None = None,
    on_start: Callable[[Plan, int], object] = lambda plan, jobs: None,
    on_event: Callable[[Event], object] = lambda event: None,
) -> list[Tuning]:
    """Chooses methods' rates and steps for a suite, on training images of its development tasks.

    Every setting that the suite's card names (``tuning``) is fitted on three quarters of each
    few-shot draw and tested on the last, on the first source alone. Finished fits are kept, as
    those of ``run`` are, and what was compared is written to ``results/<suite>/tuning/``.

    Args:
        methods, suite, out, compute, on_start, on_event: as for ``run``.

    Returns:
        What was compared and chosen, by method. ``frame`` has a row per setting.

    Raises:
        CompatbenchError: as ``run``; a suite that does not say how settings are chosen, methods
            with neither a rate nor steps, or one of which every setting failed.
    """
    # The pages, which read records, load no engine.
    from compatbench.engine.compute import Compute
    from compatbench.engine.execute.run_plan import run_plan
    from compatbench.engine.tuning import plan_tuning

    plan = plan_tuning(methods, suite, out)
    run_plan(plan, compute or Compute(), on_start, on_event)
    names = dict.fromkeys(one.method.card.name for one in plan.matrix.choices)
    found = [_read_fits(plan, name) for name in names]
    for one in found:
        text = json.dumps(one.model_dump(mode="json"), indent=1, sort_keys=True)
        write_atomic(_path(Path(out), one.suite, one.method), f"{text}\n".encode())
    return found


def _read_fits(plan: Plan, method: str) -> Tuning:
    """What the fits of a plan give for a method."""
    from compatbench.engine.method_settings import resolve_settings

    suite, matrix = plan.suite, plan.matrix
    choices = [one for one in matrix.choices if one.method.card.name == method]
    configs = [resolve_settings(one.method, suite, one.name).config for one in choices]
    cells = [[cell for cell in plan.cells if cell.name == one.name] for one in choices]
    rows = [[_find_row(plan, cell) for cell in each] for each in cells]
    about: dict[str, Any] = dict(
        suite=suite.name, method=method, version=choices[0].method.card.version
    )
    about |= dict(source=suite.upgrades[0][0], shots=matrix.shots[0], provenance=provenance())
    about |= dict(tasks=matrix.tasks, seeds=matrix.seeds)
    about["lr"] = [config.get("recipe", {}).get("lr") for config in configs]
    about["max_steps"] = [config.get("max_steps") for config in configs]
    about["correct"] = [[one and one.correct for one in each] for each in rows]
    about["total"] = [
        max((one.total or 0 for one in each if one), default=0) for each in zip(*rows, strict=True)
    ]
    try:
        chosen = choose(Tuning.model_construct(**about).frame)
    except ValueError as error:
        raise CompatbenchError(f"method '{method}': {error}; 'runs ls' shows the fits") from None
    return Tuning.model_validate(about | {"chosen": chosen, "config": configs[chosen]})


def _find_row(plan: Plan, cell: Cell) -> Row | None:
    from compatbench.results.collect import rows_of

    record = plan.store.read(cell.key)
    rows = rows_of(cell, record, plan.store) if record is not None else []
    return rows[0] if rows and rows[0].status == "ok" else None


def _path(out: Path, suite: str, method: str) -> Path:
    folder = require(require(out / RESULTS / suite, "folder") / TUNING, "folder")
    return require(folder / f"{method}.json")


def is_tuned(out: Path, suite: str, method: str, config: Any) -> bool:
    """Whether a record in ``results/`` has chosen these settings; a broken one is an error."""
    if not (path := _path(out, suite, method)).is_file():
        return False
    try:
        return Tuning.model_validate_json(path.read_bytes()).config == config
    except ValidationError as error:
        where, message = first_problem(error)
        raise CompatbenchError(f"{path}: '{where or 'file'}': {message}") from None
