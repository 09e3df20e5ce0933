"""The fits that choose a method's settings, on training images and on the source alone.

They are those of an ordinary suite, whose named configs are the settings to choose from. They
learn from three quarters of a few-shot draw, and are tested on the last quarter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from compatbench.data.cards import (
    COPIED,
    SuiteCard,
    development_tasks,
    suite_cards,
    task_cards,
)
from compatbench.data.cards.schemas import TuningCard
from compatbench.data.cards.shots import ALL_SHOTS
from compatbench.data.draws import HELD_OUT, count_kept
from compatbench.engine.cell import Cell, provenance
from compatbench.engine.keys import data_key
from compatbench.engine.matrix import MethodChoice, build_matrix
from compatbench.engine.method_settings import resolve_settings
from compatbench.engine.pace import count_images
from compatbench.engine.plan import Plan, make_plan
from compatbench.engine.request import Names, make_request
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import TrainedMethod
from compatbench.results.collect import rows_of
from compatbench.results.rows import Row
from compatbench.results.tuning_records import Setting, Tuning, choose

# The most rates beyond the card's, in one direction: each is another round of fits.
MOST_FURTHER_RATES = 2


@dataclass(frozen=True)
class Search:
    """What is to be fitted next, and what has been proposed so far."""

    plan: Plan  # its choices are settings, of each method the recipe's own first
    settings: Mapping[str, Setting]  # by the name of the config
    methods: tuple[str, ...]

    def accuracies(self, method: str) -> dict[str, float]:
        """The mean accuracy of every config of a method that is finished, by its name."""
        shares = {
            name: [(row.correct or 0) / (row.total or 1) for row in rows if row]
            for name, rows in self.rows(method).items()
            if None not in rows
        }
        return {name: sum(each) / len(each) for name, each in shares.items()}

    def rows(self, method: str) -> dict[str, list[Row | None]]:
        """Of each config of a method, the row of every task and seed; None of a failed fit."""
        return {
            choice.name: [
                _find_row(self.plan, cell) for cell in self.plan.cells if cell.name == choice.name
            ]
            for choice in self.plan.matrix.choices
            if choice.method.card.name == method
        }


def plan_tuning(methods: Names, suite: str = "mini", out: str | Path = ".") -> Plan:
    """The plan of what ``compatbench.tune`` fits next; nothing is written.

    The choices of its matrix are the settings, of each method the recipe's own first. What is
    tried depends on the fits that are finished, so ``tune`` plans until nothing is left to do.
    """
    return plan_search(methods, suite, out).plan


def plan_search(
    methods: Names, suite: str = "mini", out: str | Path = ".", tried: Set[str] = frozenset()
) -> Search:
    """What ``plan_tuning`` plans, with the settings; those that were ``tried`` may have failed."""
    card = suite_cards.read(suite)
    tasks, tuning = _check_card(card), card.tuning
    assert tuning is not None
    shots = max(n for n in card.shots if n < ALL_SHOTS)
    # Settings that an earlier search chose must not be where this one begins.
    card = card.model_copy(update={"methods": dict(without_chosen(card)), "tasks": tasks})
    request = make_request(card, methods, tasks=tasks, transfers=[COPIED])
    choices = build_matrix(request).choices
    proposed: dict[str, list[Setting]] = {
        choice.name: _first_settings(choice, tuning)
        for choice in choices
        if choice.name not in card.configs
    }
    proposed = {name: settings for name, settings in proposed.items() if len(settings) > 1}
    if not proposed:
        names = ", ".join(choice.name for choice in choices)
        raise CompatbenchError(f"nothing to tune of {names}: no rate, steps or training images")
    while True:
        search = _plan_settings(card, proposed, tasks, shots, Path(out))
        if any(cell.name not in tried for cell in search.plan.to_do):
            return search
        further = {
            name: _next_settings(had, _best(search, name), tuning) for name, had in proposed.items()
        }
        if not any(further.values()):
            return search
        proposed = {name: had + further[name] for name, had in proposed.items()}


def _check_card(card: SuiteCard) -> tuple[str, ...]:
    """The tasks on which settings are chosen; CompatbenchError if the card cannot choose."""
    if (tuning := card.tuning) is None:
        raise CompatbenchError(
            f"suite '{card.name}' does not say how settings are chosen: its card has no field "
            "'tuning', see docs/cards.md"
        )
    tasks = development_tasks(card)
    if len(tasks) * len(tuning.seeds) < 2:
        raise CompatbenchError(
            f"suite '{card.name}': 'development' and 'tuning.seeds' give one draw, and a standard "
            "error needs two; name another task or seed"
        )
    shots = max((n for n in card.shots if n < ALL_SHOTS), default=0)
    if shots == count_kept(shots):
        raise CompatbenchError(f"suite '{card.name}' draws too few images to hold a quarter out")
    return tasks


def without_chosen(card: SuiteCard) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a suite says of methods, without what a search chooses: rate, epochs and training."""
    for name, settings in card.methods.items():
        if name in card.configs:
            yield name, settings
            continue
        recipe = {k: v for k, v in settings.get("recipe", {}).items() if k not in ("lr", "epochs")}
        rest = {k: v for k, v in settings.items() if k not in ("recipe", "training")}
        yield name, rest | ({"recipe": recipe} if recipe else {})


def _first_settings(choice: MethodChoice, tuning: TuningCard) -> list[Setting]:
    """The recipe's own, every rate with every length, and for methods without these trainings."""
    if not choice.method.card.learns:
        return []
    if not issubclass(choice.method, TrainedMethod):
        return [Setting(), *(Setting(training=training) for training in tuning.trainings)]
    pairs = product(dict.fromkeys((1.0, *tuning.rates)), dict.fromkeys((1.0, *tuning.lengths)))
    return [Setting(rate=rate, length=length) for rate, length in pairs]


def _best(search: Search, method: str) -> Setting | None:
    """The setting of the highest accuracy so far; None if every fit failed."""
    accuracies = search.accuracies(method)
    return search.settings[max(accuracies, key=accuracies.__getitem__)] if accuracies else None


def _next_settings(had: list[Setting], best: Setting | None, tuning: TuningCard) -> list[Setting]:
    """What to try next for a method: further rates, then other trainings with the best rate."""
    if best is None or any(setting.training for setting in had):
        return []
    listed = sorted({1.0, *tuning.rates})
    rates = sorted(setting.rate for setting in had if setting.length == best.length)
    if len(listed) > 1 and best.rate in (rates[0], rates[-1]):
        up = best.rate == rates[-1]
        further = [rate for rate in rates if (rate > listed[-1] if up else rate < listed[0])]
        if len(further) < MOST_FURTHER_RATES:
            factor = listed[-1] / listed[-2] if up else listed[0] / listed[1]
            rate = float(f"{best.rate * factor:.6g}")
            return [best.model_copy(update={"rate": rate})]
    return [best.model_copy(update={"training": training}) for training in tuning.trainings]


def _plan_settings(
    card: SuiteCard,
    proposed: Mapping[str, list[Setting]],
    tasks: tuple[str, ...],
    shots: int,
    out: Path,
) -> Search:
    """The plan of the fits of settings, each a named config of its method."""
    assert card.tuning is not None
    registry, configs, settings_of = builtin_methods(), {}, {}
    for name, settings in proposed.items():
        published = registry.get(name).Config()
        for setting in settings:
            config = f"{name}+{setting.label}"
            settings_of[config] = setting
            configs[config] = {"method": name} | setting.changes(published)
    alone: dict[str, Any] = {
        "variants": (),
        "groups": {},
        "retrained": False,
        "run_seeds": (),
        "seeds": card.tuning.seeds,
        "shots": (count_kept(shots),),
        "upgrades": (card.upgrades[0][:1],),
        "methods": card.methods | configs,
    }
    trial = card.model_copy(update=alone)
    differ: dict[str, str] = {}
    request = make_request(trial, list(configs), tasks=tasks, transfers=[COPIED])
    for choice in build_matrix(request).choices:
        differ.setdefault(_what_is_fitted(choice, tasks, trial.shots[0]), choice.name)
    request = make_request(
        trial,
        list(differ.values()),
        tasks=tasks,
        transfers=[COPIED],
        out=out,
        held_out_of=shots,
    )
    plan = make_plan(request)
    tested = []
    for cell in plan.cells:
        held_out = HELD_OUT.format(cell.task, shots, cell.seed)
        place = cell.source, held_out, data_key(cell.source, held_out)
        tested.append(replace(cell, test_sets=(held_out,), places=(place,)))
    kept = {name: settings_of[name] for name in differ.values()}
    return Search(replace(plan, cells=tuple(tested)), kept, tuple(proposed))


def _what_is_fitted(choice: MethodChoice, tasks: tuple[str, ...], shots: int) -> str:
    """What tells two settings of a method apart: more epochs under a cap on steps may not."""
    settings = choice.settings[tasks[0]]
    config, fits = dict(settings.config), []
    for task in tasks:
        method = choice.build(task)
        if isinstance(method, TrainedMethod):
            images = count_images(choice, task_cards.read(task), shots)
            fits.append(method.plan_steps(shots, images))
    if fits:
        config["recipe"] = config["recipe"] | {"epochs": None}
    return repr((choice.method, config, fits, settings.training))


def read_tuning(search: Search, method: str) -> Tuning:
    """What the finished fits of a search give for a method."""
    plan, by_config = search.plan, search.rows(method)
    suite, names = plan.suite, list(by_config)
    cls = next(choice.method for choice in plan.matrix.choices if choice.name == names[0])
    about: dict[str, Any] = {
        "suite": suite.name,
        "method": method,
        "version": cls.card.version,
        "source": suite.upgrades[0][0],
        "shots": plan.request.shots[0],
        "tasks": plan.request.tasks,
        "seeds": plan.request.seeds,
        "provenance": provenance(),
        "settings": [search.settings[name] for name in names],
        "correct": [[row and row.correct for row in rows] for rows in by_config.values()],
        "total": [
            max(row.total or 0 if row else 0 for row in rows)
            for rows in zip(*by_config.values(), strict=True)
        ],
    }
    try:
        chosen = choose(Tuning.model_construct(**about).frame)
    except ValueError as error:
        raise CompatbenchError(
            f"method '{method}': {error}; 'store runs ls' shows the fits"
        ) from None
    config = resolve_settings(cls, suite, names[chosen]).config
    return Tuning.model_validate(about | {"chosen": chosen, "config": config})


def _find_row(plan: Plan, cell: Cell) -> Row | None:
    record = plan.store.read(cell.key)
    rows = rows_of(cell, record, plan.store) if record is not None else []
    return rows[0] if rows and rows[0].status == "ok" else None
