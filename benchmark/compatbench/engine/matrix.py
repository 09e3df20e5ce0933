"""What of a suite is asked for: methods with their settings, transfers, and every cell's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from typing import Any

from compatbench.data.cards import (
    COPIED,
    SuiteCard,
    TaskCard,
    select_names,
    suite_tasks,
    suite_variants,
    task_cards,
    whole_name,
)
from compatbench.data.cards.shots import ALL_SHOTS, Numbers, check_draws
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.engine.cell import Cell
from compatbench.engine.keys import (
    changed_settings,
    data_key,
    find_teacher,
    identify,
    module_key,
    transfer_key,
)
from compatbench.engine.method_settings import Settings, resolve_settings
from compatbench.engine.missing import Missing, fit_backbones
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json
from compatbench.method import Method
from compatbench.method.registry import MethodRegistry, builtin_transfers, find_transfer

Names = str | Sequence[str]


@dataclass(frozen=True, eq=False)
class MethodChoice:
    """A method, or a named config of one, as a suite sets it."""

    name: str  # as the suite and results call it
    method: type[Method]
    settings: Mapping[str, Settings]  # by task
    identity: str  # what names the method's code in keys
    plugin: str | None  # the file that it was loaded from, if that is not among the methods
    transfer: str = COPIED

    def build(self, task: str) -> Method:
        """The method with its settings for a task."""
        return self.method(self.method.Config.model_validate(self.settings[task].config))


@dataclass(frozen=True)
class Matrix:
    """The part of a suite that is asked for; enumerated once, without images or weights."""

    suite: SuiteCard
    registry: MethodRegistry
    choices: tuple[MethodChoice, ...]
    tasks: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    chosen: frozenset[str]  # test sets: the tasks' own and variants

    @cached_property
    def tests(self) -> dict[str, tuple[str, ...]]:
        """What the modules of each task are measured on: itself and its variants, or some."""
        variants = suite_variants(self.suite)
        tests = {task: (task, *variants[task]) for task in self.tasks}
        return {task: tuple(name for name in tests[task] if name in self.chosen) for task in tests}

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for, as ``restrict`` of results and pages takes it.

        If it is every task of the suite, it is those that the suite's means are over.
        """
        return {
            "tasks": None if {*self.tasks} == {*suite_tasks(self.suite)} else self.tasks,
            "seeds": self.seeds,
            "shots": self.shots,
            "methods": {choice.name for choice in self.choices},
            "transfers": {choice.transfer for choice in self.choices},
        }

    @cached_property
    def cards(self) -> dict[str, TaskCard]:
        """The cards of its tasks and test sets, each read once."""
        names = {name for task in self.tasks for name in (task, *self.tests[task])}
        return {name: task_cards.read(name) for name in names}

    @cached_property
    def _choices(self) -> dict[tuple[str, str], MethodChoice]:
        return {(choice.name, choice.transfer): choice for choice in self.choices}

    def choice(self, cell: Cell) -> MethodChoice:
        """The choice that a cell is of."""
        return self._choices[cell.name, cell.transfer]

    @cached_property
    def places(self) -> tuple[Cell, ...]:
        """Every cell, without its key; those of one task and source stand together."""
        cells, draws = [], list(product(self.shots, self.seeds))
        sources = {upgrade[0] for upgrade in self.suite.upgrades}
        # With ``retrained``, every target is a source, too, and is followed by nothing if no
        # upgrade starts at it.
        paths: dict[str, dict[str, None]] = {}
        for source, *targets in self.suite.upgrades:
            paths.setdefault(source, {source: None}).update(dict.fromkeys(targets))
        for name in fit_backbones(self.suite):
            paths.setdefault(name, {name: None})
        plugins = {
            label: builtin_transfers().identify(label.partition("+")[0])[1]
            for label in {choice.transfer for choice in self.choices}
        }
        for task, backbones in product(self.tasks, map(tuple, paths.values())):
            tests = self.tests[task]
            for draw, choice in product(draws, self.choices):
                card = choice.method.card
                if backbones[0] not in sources and not (card.learns and choice.transfer == COPIED):
                    continue  # a module fitted on the target needs no transfer there
                if not card.learns and draw != draws[0]:
                    continue  # it sees no image: one cell stands for every draw
                shots, seed = draw if card.learns else (self.suite.shots[0], self.suite.seeds[0])
                cell = Cell(
                    key="",
                    fit_key="",
                    name=choice.name,
                    method=card.name,
                    config=choice.settings[task].config,
                    task=task,
                    shots=shots,
                    seed=seed,
                    backbones=backbones,
                    test_sets=tests,
                    places=(),
                    training=choice.settings[task].training,
                    plugin=choice.plugin,
                    transfer=choice.transfer,
                    transfer_plugin=plugins[choice.transfer],
                )
                cells.append(cell)
        return tuple(cells)

    def cells(self, missing: Missing | None = None, held_out_of: int | None = None) -> list[Cell]:
        """Return the cells with their keys, without missing targets, variants or whole cells.

        What cannot be measured because images are broken is ``broken``: a cell, or its part on
        some test sets, which follows the rest.
        """
        missing, cells = missing or Missing(), []
        # Of every choice and task, and of all test sets, once: not of every cell.
        name_fit = cache(
            lambda resolved, task: (
                identify(
                    resolved.identity, resolved.method.card, task, resolved.settings[task].config
                ),
                changed_settings(resolved.method, resolved.settings[task].config),
            )
        )
        places_of = cache(
            lambda backbones, test_sets: tuple(
                (*pair, data_key(*pair)) for pair in product(backbones, test_sets)
            )
        )
        for cell in self.places:
            choice, task, training = self.choice(cell), cell.task, cell.training
            card, draw = choice.method.card, (task, cell.shots, cell.seed)
            if why := missing.test_sets.get(task):
                cells += [_break(cell, why)] * (task in missing.broken)
                continue
            if not {cell.source, find_teacher(card, cell.config)}.isdisjoint(missing.backbones):
                continue
            try:
                named = name_fit(choice, task)
                fitted = module_key(*named, cell.source, draw, training, held_out_of)
                key = transfer_key(fitted, choice.transfer, task, cell.seed, training)
            except BrokenImages as error:
                cells.append(_break(cell, str(error)))
                continue
            backbones = tuple(name for name in cell.backbones if name not in missing.backbones)
            tests = tuple(name for name in cell.test_sets if name not in missing.test_sets)
            known = replace(
                cell, key=key, fit_key=fitted, held_out_of=held_out_of, backbones=backbones
            )
            cells.append(replace(known, test_sets=tests, places=places_of(backbones, tests)))
            cells += [
                replace(known, test_sets=(name,), broken=missing.test_sets[name])
                for name in cell.test_sets
                if name in missing.broken
            ]
        return cells


def _break(cell: Cell, why: str) -> Cell:
    about = [cell.name, cell.task, cell.shots, cell.seed, cell.backbones, why]
    key = sha256_json(["broken images", *about])  # of no result
    return replace(cell, key=key, fit_key=key, broken=why)


def select_matrix(
    suite: SuiteCard,
    registry: MethodRegistry,
    methods: Names = "all",
    tasks: Names = "all",
    shots: Numbers | None = None,
    seeds: Numbers | None = None,
    transfers: Names | None = None,
) -> Matrix:
    """The part of a suite that these names mean; ``compatbench.plan`` says what they may be."""
    names, named = select_methods(suite, registry, methods)
    if not names:
        raise CompatbenchError(f"--methods {_quote(methods)} leaves no method")
    variants = suite_variants(suite)
    trained = {whole_name(task): task for task in variants}  # of halves, by the task's name
    wanted = [
        part[: len(part) - len(name_asked)] + each  # a task stands for its variants, too
        for part in task_cards.resolve_all(tasks)
        for name_asked in [part.removeprefix("!")]
        for name in [trained.get(name_asked, name_asked)]
        for each in (name, *variants.get(name, ()))
    ]
    known = [name for task, more in variants.items() for name in (task, *more)]
    tests = frozenset(select_names(wanted, known, "task in this suite"))
    chosen = tuple(task for task, more in variants.items() if not tests.isdisjoint((task, *more)))
    if not chosen:
        raise CompatbenchError(f"--tasks {_quote(tasks)} leaves no task of suite '{suite.name}'")
    numbers, seeds = check_draws(
        suite.shots if shots is None else shots, suite.seeds if seeds is None else seeds
    )
    counts = [task_cards.read(task).counts.get("train", ALL_SHOTS) for task in chosen]
    # Images of one's own, which no card counts, are counted when they are read.
    wrong = [number for number in numbers if max(counts) < number < ALL_SHOTS]
    if wrong and shots is not None:
        raise CompatbenchError(
            f"--shots '{wrong[0]}': no task here has so many images per class; 'all' takes all"
        )
    plain, choices = _choose_methods(suite, registry, names, chosen), []
    ways = transfers.split(",") if isinstance(transfers, str) else transfers
    for label in builtin_transfers().choose(ways or suite.transfers):
        way = find_transfer(label)
        able = [choice for choice in plain if choice.method.card.depth != "none" or label == COPIED]
        served = [choice for choice in able if way.serves(choice.method.card)]
        # What it changes nothing of is measured where it was asked for by name.
        if not served and transfers is not None:
            served = [choice for choice in able if choice.name in named]
            for choice in served:
                way.require(choice.method.card)
        choices += [replace(choice, transfer=label) for choice in served]
    if not choices:
        raise CompatbenchError(
            f"--transfers {_quote(transfers or '')} changes nothing for {', '.join(names)}: choose "
            "another, or name a method to have it all the same"
        )
    return Matrix(suite, registry, tuple(choices), chosen, tuple(numbers), tuple(seeds), tests)


def _quote(value: Names) -> str:
    return f"'{value if isinstance(value, str) else ','.join(value)}'"


def select_methods(
    suite: SuiteCard, registry: MethodRegistry, wanted: Names
) -> tuple[list[str], set[str]]:
    """The methods and named configs that a selection means, and those that it names itself."""
    for path in suite.plugins:
        registry.add_file(path)
    for name in suite.configs:
        if name in registry.classes:
            raise CompatbenchError(
                f"suite '{suite.name}': config '{name}' has the name of a method; rename it"
            )
        registry.get(suite.base_method(name))
    compared = select_names(suite.compare, [*registry.names(), *suite.configs], "method")
    listed = wanted.split(",") if isinstance(wanted, str) else wanted
    parts = [part.strip() for part in listed if part.strip()]
    if not parts:
        raise CompatbenchError("--methods '' names no method; 'all' is what the suite compares")
    if all(part.startswith("!") for part in parts):
        parts = ["all", *parts]
    names = [name for part in parts for name in (compared if part == "all" else [part])]
    chosen = registry.select(",".join(names), suite.configs) if names else []
    return chosen, {name for name in chosen if name not in compared or name in parts}


def _choose_methods(
    suite: SuiteCard, registry: MethodRegistry, names: Sequence[str], tasks: Sequence[str]
) -> list[MethodChoice]:
    choices, seen = [], {}
    for name in names:
        cls = registry.get(suite.base_method(name))
        settings = {task: resolve_settings(cls, suite, name, task) for task in tasks}
        values = [
            [resolved.config, resolved.training.model_dump()] for resolved in settings.values()
        ]
        first = seen.setdefault(sha256_json([cls.card.name, values]), name)
        if first != name:
            raise CompatbenchError(
                f"suite '{suite.name}': '{first}' and '{name}' are one method with the same "
                "settings; drop one"
            )
        choices.append(MethodChoice(name, cls, settings, *registry.identify(cls.card.name)))
    return choices
