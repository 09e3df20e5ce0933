"""The fits that choose a method's rate and steps, on training images and on the source alone.

They are those of an ordinary suite, whose named configs are the settings to choose from. They
learn from three quarters of a few-shot draw, and are tested on the last quarter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from compatbench.data.cards import SuiteCard, development_tasks, suite_cards
from compatbench.data.cards.shots import ALL_SHOTS
from compatbench.data.draws import HELD_OUT, count_kept, export_draw, hold_out
from compatbench.data.task import load_task
from compatbench.engine.costs import plan_fit
from compatbench.engine.keys import data_key
from compatbench.engine.matrix import MethodChoice, Names, select_matrix
from compatbench.engine.plan import Plan, make_plan
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.method.registry import builtin_methods


def plan_tuning(methods: Names, suite: str = "mini", out: str | Path = ".") -> Plan:
    """The plan of what ``compatbench.tune`` fits; nothing is written but draws, in ``runs/``.

    The choices of its matrix are the settings, of each method the recipe's own first.
    """
    card, registry, out = suite_cards.read(suite), builtin_methods(), Path(out)
    if (tuning := card.tuning) is None:
        raise CompatbenchError(
            f"suite '{card.name}' does not say how settings are chosen: its card has no field "
            "'tuning', see docs/cards.md"
        )
    if not (tasks := development_tasks(card)):
        raise CompatbenchError(f"suite '{card.name}': field 'development' names none of its tasks")
    if len(tasks) * len(tuning.seeds) < 2:
        raise CompatbenchError(
            f"suite '{card.name}': 'development' and 'tuning.seeds' give one draw, and a standard "
            "error needs two; name another task or seed"
        )
    if (shots := max((n for n in card.shots if n < ALL_SHOTS), default=0)) == count_kept(shots):
        raise CompatbenchError(f"suite '{card.name}' draws too few images to hold a quarter out")
    asked = select_matrix(card, registry, methods, tasks, transfers=["copied"]).choices
    configs = dict(config for one in asked for config in _list_settings(one, card))
    if not configs:
        names = ", ".join(one.name for one in asked)
        raise CompatbenchError(f"nothing to tune of {names}: neither a rate nor steps")
    alone: dict[str, Any] = {
        "variants": (),
        "groups": {},
        "retrained": False,
        "seeds": tuning.seeds,
        "run_seeds": (),
    }
    alone |= {"upgrades": (card.upgrades[0][:1],), "shots": (count_kept(shots),)}
    alone |= {"methods": card.methods | configs}
    trial = card.model_copy(update=alone)
    differ: dict[tuple[Any, ...], str] = {}
    for one in select_matrix(trial, registry, list(configs), tasks, transfers=["copied"]).choices:
        # A cap above a recipe's own steps changes nothing.
        steps = [plan_fit(one, task, trial.shots[0]).steps for task in tasks]
        lr, cap = (configs[one.name].get(key) for key in ("recipe", "max_steps"))
        differ.setdefault((one.method, str(lr), *(steps if all(steps) else [cap])), one.name)
    draws = []
    for task, seed in product(map(load_task, tasks), trial.seeds):
        draw, _ = hold_out(task, shots, seed, card.training.val_shots)
        draws.append(out / "runs" / "tuning" / f"{task.name}-{shots}-{seed}.json")
        write_atomic(draws[-1], export_draw(task, draw, trial.shots[0], seed).encode())
    found = make_plan(
        trial, list(differ.values()), tasks, transfers=["copied"], out=out, shots_files=draws
    )
    tested = []
    for cell in found.cells:
        held_out = HELD_OUT.format(cell.task, shots, cell.seed)
        place = cell.source, held_out, data_key(cell.source, held_out)
        tested.append(replace(cell, test_sets=(held_out,), places=(place,)))
    return replace(found, cells=tuple(tested))


def _list_settings(choice: MethodChoice, suite: SuiteCard) -> Iterator[tuple[str, dict[str, Any]]]:
    """The settings of a method to choose from, as named configs; none if there is but its own."""
    tuning, config = suite.tuning, choice.method.Config()
    if tuning is None or choice.name in suite.configs:
        return
    rates, caps = list[float | None]([None]), list[int | None]([None])
    if (recipe := getattr(config, "recipe", None)) is not None:
        rates = [recipe.lr, *(float(f"{recipe.lr * factor:.6g}") for factor in tuning.rates)]
    if hasattr(config, "max_steps"):
        budget = suite.methods.get(choice.name, {}).get("max_steps", suite.training.max_steps)
        caps = [budget, *tuning.steps]
    settings = list(product(dict.fromkeys(rates), dict.fromkeys(caps)))
    for lr, cap in settings if len(settings) > 1 else ():
        values = {"method": choice.name} | ({"recipe": {"lr": lr}} if lr else {})
        values |= {"max_steps": cap} if hasattr(config, "max_steps") else {}
        yield f"{choice.name}+lr-{lr}+steps-{cap}", values
