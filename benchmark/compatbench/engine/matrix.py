"""What of a suite is asked for: methods with their settings, transfers, and every cell's place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product, takewhile
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from compatbench.data.cards import (
    SuiteCard,
    TrainingCard,
    select_names,
    suite_tasks,
    suite_variants,
    task_cards,
)
from compatbench.data.draws import ShotsFiles
from compatbench.data.shots import ALL_SHOTS, check_draws
from compatbench.engine.cell import Cell
from compatbench.engine.keys import (
    changed_settings,
    find_teacher,
    fit_key,
    identify,
    module_key,
    transfer_key,
)
from compatbench.engine.missing import Missing, fit_backbones
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json
from compatbench.method import Method
from compatbench.method.registry import MethodRegistry
from compatbench.transfer import COPIED
from compatbench.transfer.registry import builtin_transfers, find_transfer

# Where a module acts whose fit runs blocks of a tower.
TOWERS = {"text-input", "text-layers", "image-layers"}

Names = str | Sequence[str]
ModelT = TypeVar("ModelT", bound=BaseModel)


class SettingsRefused(ValueError):
    """Settings that a method in another process refuses; ``errors`` is as pydantic's."""

    def __init__(self, first: Mapping[str, Any]) -> None:
        super().__init__(str(first.get("msg")))
        self._first = {"loc": tuple(first["loc"]), "type": first["type"], "msg": str(self)}

    def errors(self) -> list[dict[str, Any]]:
        return [self._first]


class Settings(NamedTuple):
    """What a suite sets of a method for a task: every setting as JSON, and the training."""

    config: dict[str, Any]
    training: TrainingCard


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

    def teacher(self, task: str) -> str | None:
        """The backbone that it learns from on a task, if it needs one."""
        return find_teacher(self.method.card, self.settings[task].config)


class Place(NamedTuple):
    """A cell before its key is known; ``backbones`` are the source and its targets."""

    choice: MethodChoice
    task: str
    shots: int
    seed: int
    backbones: tuple[str, ...]

    def is_missing(self, missing: Missing) -> bool:
        """Whether its task, its source or its teacher is not here."""
        needed = {self.backbones[0], self.choice.teacher(self.task)}
        return self.task in missing.test_sets or not needed.isdisjoint(missing.backbones)


@dataclass(frozen=True)
class Matrix:
    """The part of a suite that is asked for; enumerated once, without images or weights."""

    suite: SuiteCard
    registry: MethodRegistry
    choices: tuple[MethodChoice, ...]
    tasks: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]

    @property
    def retrained(self) -> int:
        """How many of the cells are fits on a target, for comparison."""
        sources = {upgrade[0] for upgrade in self.suite.upgrades}
        return sum(place.backbones[0] not in sources for place in self.places)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every cell's place; those of one task and source stand together."""
        places, draws = [], list(product(self.shots, self.seeds))
        sources = {upgrade[0] for upgrade in self.suite.upgrades}
        # With ``retrained``, every target is a source, too, and is followed by nothing if no
        # upgrade starts at it.
        paths: dict[str, dict[str, None]] = {}
        for source, *targets in self.suite.upgrades:
            paths.setdefault(source, {source: None}).update(dict.fromkeys(targets))
        for name in fit_backbones(self.suite):
            paths.setdefault(name, {name: None})
        for task, backbones in product(self.tasks, map(tuple, paths.values())):
            for draw, choice in product(draws, self.choices):
                learns = choice.method.card.learns
                if backbones[0] not in sources and not (learns and choice.transfer == COPIED):
                    continue  # a module fitted on the target needs no transfer there
                if learns:
                    places.append(Place(choice, task, *draw, backbones))
                elif draw == draws[0]:
                    # It sees no image: one cell stands for every draw.
                    first = self.suite.shots[0], self.suite.seeds[0]
                    places.append(Place(choice, task, *first, backbones))
        return tuple(places)

    def cells(self, draws: ShotsFiles | None = None, missing: Missing | None = None) -> list[Cell]:
        """The cells with their keys, but for what is missing: targets, variants or whole cells."""
        missing, cells = missing or Missing(), []
        # Of every choice and task once, not of every cell.
        change = cache(lambda one, task: changed_settings(one.method, one.settings[task].config))
        identity = cache(
            lambda one, task: identify(
                one.identity, one.method.card, task, one.settings[task].config
            )
        )
        plugin_of = cache(lambda label: builtin_transfers().identify(label.partition("+")[0])[1])
        reached = cache(lambda path: tuple(name for name in path if name not in missing.backbones))
        tested = cache(
            lambda task: tuple(
                name
                for name in (task, *suite_variants(self.suite, task))
                if name not in missing.test_sets
            )
        )
        for place in self.places:
            if place.is_missing(missing):
                continue
            choice, task, shots, seed, backbones = place
            card, (config, training) = choice.method.card, choice.settings[task]
            file = (draws or {}).get((task, shots, seed)) if card.learns else None
            data = fit_key(backbones[0], task, shots, seed, file, training.val_shots)
            # Equal keys, equal modules.
            code, settings = identity(choice, task), change(choice, task)
            key = module_key(code, settings, data, shots, seed, training)
            cells.append(
                Cell(
                    key=transfer_key(key, choice.transfer, task, seed, training),
                    fit_key=key,
                    method=card.name,
                    config=config,
                    task=task,
                    shots=shots,
                    seed=seed,
                    backbones=reached(backbones),
                    test_sets=tested(task),
                    training=training,
                    plugin=choice.plugin,
                    shots_file=file,
                    config_name=choice.name if choice.name != card.name else "",
                    transfer=choice.transfer,
                    transfer_plugin=plugin_of(choice.transfer),
                )
            )
        return cells


def select_matrix(
    suite: SuiteCard,
    registry: MethodRegistry,
    methods: Names = "all",
    tasks: Names = "all",
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    transfers: Sequence[str] | None = None,
) -> Matrix:
    """The part of a suite that these names mean; ``compatbench.plan`` says what they may be."""
    names, named = _select_methods(suite, registry, methods)
    if not names:
        raise CompatbenchError(f"--methods {_quote(methods)} leaves no method")
    wanted = task_cards.resolve_all(tasks)
    chosen = tuple(select_names(wanted, suite_tasks(suite), "task in this suite"))
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
    for label in builtin_transfers().choose(transfers or suite.transfers):
        way = find_transfer(label)
        able = [one for one in plain if one.method.card.depth != "none" or label == COPIED]
        own = [one for one in able if way.serves(one.method.card)]
        if not own:  # what it changes nothing of is measured where nothing else was asked for
            own = [one for one in able if one.name in named]
            for one in own:
                way.require(one.method.card)
        choices += [replace(one, transfer=label) for one in own]
    if not choices:
        raise CompatbenchError(
            f"--transfers {_quote(transfers or '')} changes nothing for {', '.join(names)}: choose "
            "another, or name a method to have it all the same"
        )
    return Matrix(suite, registry, tuple(choices), chosen, tuple(numbers), tuple(seeds))


def _quote(value: Names) -> str:
    return f"'{value if isinstance(value, str) else ','.join(value)}'"


def _select_methods(
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
    given = wanted.split(",") if isinstance(wanted, str) else wanted
    parts = [part.strip() for part in given if part.strip()]
    if not parts:
        raise CompatbenchError("--methods '' names no method; 'all' is what the suite compares")
    if all(part.startswith("!") for part in parts):
        parts = ["all", *parts]
    names = [name for part in parts for name in (compared if part == "all" else [part])]
    chosen = registry.select(",".join(names), suite.configs) if names else []
    return chosen, {name for name in chosen if name not in compared or name in parts}


def resolve_settings(
    cls: type[Method], suite: SuiteCard, name: str | None = None, task: str | None = None
) -> Settings:
    """A method's settings in a suite: its recipe, what the suite changes, and the cap on steps.

    A config that the suite names begins with what the suite changes of the method itself. What
    is said of the task comes after what is said of all; without a task, only that.
    """
    name = name or cls.card.name
    training, values = suite.training.model_dump(), {}
    for changes in _changes(suite, dict.fromkeys((cls.card.name, name)), task):
        training |= changes.pop("training", {})
        recipe = changes.get("recipe")
        if isinstance(recipe, dict) and "recipe" in cls.Config.model_fields:
            # Of a recipe, only the parts that are named change.
            before = values.get("recipe") or cls.Config().model_dump(mode="json")["recipe"]
            changes["recipe"] = before | recipe
        values |= changes
    if "max_steps" in cls.Config.model_fields and training["max_steps"] is not None:
        values.setdefault("max_steps", training["max_steps"])
    whose = f"method '{name}' in suite '{suite.name}'" + (f", task '{task}'" if task else "")
    if training["mlp_drop"] and TOWERS.isdisjoint(cls.card.places):
        raise CompatbenchError(
            f"setting 'training.mlp_drop' of {whose}: its fit runs no tower; leave it out"
        )
    config = read_settings(cls.Config, values, whose).model_dump(mode="json")
    return Settings(config, read_settings(TrainingCard, training, f"the training of {whose}"))


def suite_trainings(suite: SuiteCard, registry: MethodRegistry) -> list[TrainingCard]:
    """Every training that a suite has: its own, and those of methods and tasks that differ."""
    found = [suite.training]
    for name in suite.methods:
        if (base := suite.base_method(name)) in registry.classes:
            for task in suite_tasks(suite):
                training = resolve_settings(registry.get(base), suite, name, task).training
                found += [training] if training not in found else []
    return found


def _changes(suite: SuiteCard, names: Iterable[str], task: str | None) -> Iterator[dict[str, Any]]:
    """What a suite says of a method or config, in the order in which it holds."""
    for name in names:
        values = dict(suite.methods.get(name, {}))
        values.pop("method", None)
        own = values.pop("tasks", {})
        yield values
        for wanted, changes in own.items():
            kind = f"task (methods.{name}.tasks of suite '{suite.name}')"
            if task in select_names(wanted, task_cards.names(), kind):
                yield dict(changes)


def read_settings(model: type[ModelT], values: dict[str, Any], whose: str) -> ModelT:
    """Settings, checked."""
    try:
        return model.model_validate(values)
    except (ValidationError, SettingsRefused) as error:
        first = error.errors()[0]
        # Of a union pydantic names the type as well, as if it were a field.
        parts = takewhile(lambda part: "-" not in part and "[" not in part, map(str, first["loc"]))
        unknown = first["type"] == "extra_forbidden"
        problem = "there is no such setting" if unknown else first["msg"]
        raise CompatbenchError(f"setting '{'.'.join(parts)}' of {whose}: {problem}") from None


def _choose_methods(
    suite: SuiteCard, registry: MethodRegistry, names: Sequence[str], tasks: Sequence[str]
) -> list[MethodChoice]:
    choices, seen = [], {}
    for name in names:
        cls = registry.get(suite.base_method(name))
        settings = {task: resolve_settings(cls, suite, name, task) for task in tasks}
        values = [[one.config, one.training.model_dump()] for one in settings.values()]
        first = seen.setdefault(sha256_json([cls.card.name, values]), name)
        if first != name:
            raise CompatbenchError(
                f"suite '{suite.name}': '{first}' and '{name}' are one method with the same "
                "settings; drop one"
            )
        choices.append(MethodChoice(name, cls, settings, *registry.identify(cls.card.name)))
    return choices
