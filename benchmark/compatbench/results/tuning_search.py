"""The fits that choose a method's settings, on training images and on the source alone.

They are planned as an ordinary suite whose named configs are the settings to choose from. Each fit
learns from three quarters of a few-shot draw and is tested on the last quarter.
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
from compatbench.engine.keys import InputHashes, data_key
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

# The number of rates tried beyond the card's in one direction. Each takes another round of fits.
MOST_FURTHER_RATES = 2


@dataclass(frozen=True)
class Search:
    """The fits to do next, and the settings proposed so far."""

    plan: Plan  # its choices are the settings; each method's first one is the recipe's own
    settings: Mapping[str, Setting]  # by the name of the config
    methods: tuple[str, ...]

    def accuracies(self, method: str) -> dict[str, float]:
        """Return the mean accuracy of every finished config of a method, by its name."""
        accuracies = {}
        for name, rows in self.rows(method).items():
            finished = [row for row in rows if row is not None]
            if len(finished) < len(rows):
                continue
            shares = [(row.correct or 0) / (row.total or 1) for row in finished]
            accuracies[name] = sum(shares) / len(shares)
        return accuracies

    def rows(self, method: str) -> dict[str, list[Row | None]]:
        """Return the row of every task and seed for each config of a method, by its name.

        A fit that failed, or is not done, has None.
        """
        rows: dict[str, list[Row | None]] = {}
        for cell in self.plan.listed:
            if cell.method == method:
                rows.setdefault(cell.name, [])
        for cell in self.plan.cells:
            if cell.name in rows:
                rows[cell.name].append(_find_row(self.plan, cell))
        return rows


def plan_tuning(methods: Names, suite: str = "mini", out: str | Path = ".") -> Plan:
    """Return the plan of the fits that ``compatbench.tune`` does next; write nothing.

    Its methods are the settings; each method's first one is the recipe's own. Which
    settings are tried depends on the finished fits, so ``tune`` plans until nothing is left to do.
    """
    return plan_search(methods, suite, out).plan


def plan_search(
    methods: Names, suite: str = "mini", out: str | Path = ".", tried: Set[str] = frozenset()
) -> Search:
    """Return the search that ``plan_tuning`` plans.

    Args:
        tried: names of configs that have been run. A config that is still to do after it was run
            has failed, and is not a reason to wait.
    """
    card = suite_cards.read(suite)
    tasks = _check_card(card)
    tuning = card.tuning
    assert tuning is not None
    shots = _largest_shots(card)
    # This search must not begin with the settings that an earlier one chose.
    card = card.model_copy(update={"methods": dict(without_chosen(card)), "tasks": tasks})
    request = make_request(card, methods, tasks=tasks, transfers=[COPIED])
    choices = build_matrix(request).choices
    proposed: dict[str, list[Setting]] = {}
    for choice in choices:
        settings = _first_settings(choice, tuning)
        if choice.name not in card.configs and len(settings) > 1:
            proposed[choice.name] = settings
    if not proposed:
        names = ", ".join(choice.name for choice in choices)
        raise CompatbenchError(f"nothing to tune of {names}: no rate, steps or training images")
    while True:
        search = _plan_settings(card, proposed, tasks, shots, Path(out))
        if any(cell.name not in tried for cell in search.plan.to_do):
            return search
        extended = {}
        for name, settings in proposed.items():
            extended[name] = settings + _next_settings(settings, _best(search, name), tuning)
        if extended == proposed:
            return search
        proposed = extended


def _check_card(card: SuiteCard) -> tuple[str, ...]:
    """Return the tasks on which settings are chosen.

    Raises:
        CompatbenchError: the card does not say how, or draws too little.
    """
    tuning = card.tuning
    if tuning is None:
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
    shots = _largest_shots(card)
    if shots == count_kept(shots):
        raise CompatbenchError(f"suite '{card.name}' draws too few images to hold a quarter out")
    return tasks


def _largest_shots(card: SuiteCard) -> int:
    """Return the largest number of images per class in a suite's draws; 0 if there is none."""
    numbers = [number for number in card.shots if number < ALL_SHOTS]
    return max(numbers, default=0)


def without_chosen(card: SuiteCard) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a suite's methods with their settings, without rate, epochs and training.

    A search chooses these three. Named configs keep all of their settings.
    """
    for name, settings in card.methods.items():
        if name in card.configs:
            yield name, settings
            continue
        kept = dict(settings)
        kept.pop("training", None)
        recipe = dict(kept.pop("recipe", {}))
        recipe.pop("lr", None)
        recipe.pop("epochs", None)
        if recipe:
            kept["recipe"] = recipe
        yield name, kept


def _first_settings(choice: MethodChoice, tuning: TuningCard) -> list[Setting]:
    """Return the settings to try first, the recipe's own before all others.

    For trained methods, these are all pairs of a rate and a length. Other methods have neither, so
    their trainings are tried.
    """
    if not choice.method.card.learns:
        return []
    settings = []
    if not issubclass(choice.method, TrainedMethod):
        settings.append(Setting())
        for training in tuning.trainings:
            settings.append(Setting(training=training))
        return settings
    rates = dict.fromkeys((1.0, *tuning.rates))
    lengths = dict.fromkeys((1.0, *tuning.lengths))
    for rate, length in product(rates, lengths):
        settings.append(Setting(rate=rate, length=length))
    return settings


def _best(search: Search, method: str) -> Setting | None:
    """Return the setting of the highest accuracy so far; None if every fit failed."""
    accuracies = search.accuracies(method)
    if not accuracies:
        return None
    best = max(accuracies, key=accuracies.__getitem__)
    return search.settings[best]


def _next_settings(tried: list[Setting], best: Setting | None, tuning: TuningCard) -> list[Setting]:
    """Return the settings to try next: a further rate, or other trainings with the best rate.

    A further rate is tried as long as the best one is at an end of those tried.
    """
    if best is None or any(setting.training for setting in tried):
        return []
    rate = _further_rate(tried, best, tuning)
    if rate is not None:
        return [best.model_copy(update={"rate": rate})]
    return [best.model_copy(update={"training": training}) for training in tuning.trainings]


def _further_rate(tried: list[Setting], best: Setting, tuning: TuningCard) -> float | None:
    """Return the next rate beyond the best one; None if it lies inside, or enough were tried.

    The step to it is the card's last step in this direction.
    """
    listed = sorted({1.0, *tuning.rates})
    rates = sorted(setting.rate for setting in tried if setting.length == best.length)
    if len(listed) == 1 or best.rate not in (rates[0], rates[-1]):
        return None
    if best.rate == rates[-1]:
        further = [rate for rate in rates if rate > listed[-1]]
        factor = listed[-1] / listed[-2]
    else:
        further = [rate for rate in rates if rate < listed[0]]
        factor = listed[0] / listed[1]
    if len(further) >= MOST_FURTHER_RATES:
        return None
    return float(f"{best.rate * factor:.6g}")


def _plan_settings(
    card: SuiteCard,
    proposed: Mapping[str, list[Setting]],
    tasks: tuple[str, ...],
    shots: int,
    out: Path,
) -> Search:
    """Plan the fits of the proposed settings, each a named config of its method."""
    assert card.tuning is not None
    registry = builtin_methods()
    configs: dict[str, dict[str, Any]] = {}
    settings_of: dict[str, Setting] = {}
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
    # Of settings that give the same fit, the first is run.
    distinct: dict[str, str] = {}
    request = make_request(trial, list(configs), tasks=tasks, transfers=[COPIED])
    for choice in build_matrix(request).choices:
        fit = _describe_fit(choice, tasks, trial.shots[0])
        distinct.setdefault(fit, choice.name)
    kept = {name: settings_of[name] for name in distinct.values()}
    request = make_request(
        trial,
        list(kept),
        tasks=tasks,
        transfers=[COPIED],
        out=out,
        held_out_of=shots,
    )
    plan = make_plan(request)
    tested = []
    hashes = InputHashes()
    for cell in plan.cells:
        held_out = HELD_OUT.format(cell.task, shots, cell.seed)
        place = (cell.source, held_out, data_key(cell.source, held_out, hashes))
        tested.append(replace(cell, test_sets=(held_out,), places=(place,)))
    return Search(replace(plan, cells=tuple(tested)), kept, tuple(proposed))


def _describe_fit(choice: MethodChoice, tasks: tuple[str, ...], shots: int) -> str:
    """Return a text that is the same for two settings if their fits are.

    For example, more epochs give the same fit where the suite caps the steps.
    """
    settings = choice.settings[tasks[0]]
    config = dict(settings.config)
    fits = []
    for task in tasks:
        method = choice.build(task)
        if isinstance(method, TrainedMethod):
            images = count_images(choice, task_cards.read(task), shots)
            fits.append(method.plan_steps(shots, images))
    if fits:
        # The numbers of steps stand for the epochs.
        config["recipe"] = config["recipe"] | {"epochs": None}
    return repr((choice.method, config, fits, settings.training))


def read_tuning(search: Search, method: str) -> Tuning:
    """Return the record of a method's finished fits, with the setting that they choose.

    Raises:
        CompatbenchError: every setting failed.
    """
    plan = search.plan
    suite = plan.suite
    by_config = search.rows(method)
    names = list(by_config)
    correct = []
    for rows in by_config.values():
        correct.append([None if row is None else row.correct for row in rows])
    # The setting does not change the number of images; failed fits have none.
    total = []
    for of_draw in zip(*by_config.values(), strict=True):
        counts = [row.total for row in of_draw if row is not None and row.total is not None]
        total.append(max(counts, default=0))
    cls = builtin_methods().get(method)
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
        "correct": correct,
        "total": total,
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
    """Return the row of a cell's only test set; None if its fit failed or is not done."""
    record = plan.store.read(cell.key)
    if record is None:
        return None
    rows = rows_of(cell, record, plan.store)
    if not rows or rows[0].status != "ok":
        return None
    return rows[0]
