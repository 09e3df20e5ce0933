"""What of a suite is asked for: methods with their settings, transfers, and every cell's place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from compatbench.data.cards import SuiteCard, select_names, suite_tasks, suite_variants, task_cards
from compatbench.data.draws import ShotsFiles
from compatbench.data.shots import ALL_SHOTS, check_draws
from compatbench.engine.cell import Cell
from compatbench.engine.keys import cell_key, transfer_key
from compatbench.engine.missing import Missing, fit_backbones
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json
from compatbench.method import Method
from compatbench.method.identity import method_identity
from compatbench.method.registry import MethodRegistry
from compatbench.transfer import COPIED, find_transfer


@dataclass(frozen=True)
class MethodChoice:
    """A method, or a named config of one, as a suite sets it.

    Attributes:
        name: of the method or config, as the suite and results call it.
        method: its class.
        identity: what names its code in keys.
        plugin: the file that it was loaded from, if it is not installed.
    """

    name: str
    method: type[Method]
    config: dict[str, Any]
    identity: str
    plugin: str | None
    transfer: str = COPIED


class Place(NamedTuple):
    """A cell before its key is known; ``backbones`` are the source and its targets."""

    choice: MethodChoice
    task: str
    shots: int
    seed: int
    backbones: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """The part of a suite that is asked for; enumerated once, without images or weights.

    Attributes:
        tasks, shots, seeds: those of the suite that are asked for, or others.
    """

    suite: SuiteCard
    registry: MethodRegistry
    choices: tuple[MethodChoice, ...]
    tasks: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every cell's place; those of one task and source stand together."""
        return tuple(self._places())

    @cached_property
    def counts(self) -> Counter[tuple[str, str]]:
        """Cells by (method, transfer), whether their images and weights are here or not."""
        return Counter((place.choice.name, place.choice.transfer) for place in self.places)

    @property
    def retrained(self) -> int:
        """How many of the cells are fits on a target, for comparison."""
        sources = {upgrade[0] for upgrade in self.suite.upgrades}
        return sum(place.backbones[0] not in sources for place in self.places)

    def _places(self) -> Iterator[Place]:
        draws = list(product(self.shots, self.seeds))
        for task, backbones in product(self.tasks, _paths(self.suite).values()):
            for draw, choice in product(draws, self.choices):
                learns = choice.method.card.learns
                if len(backbones) == 1 and not (learns and choice.transfer == COPIED):
                    continue  # a module fitted on the target needs no transfer there
                if learns:
                    yield Place(choice, task, *draw, backbones)
                elif draw == draws[0]:
                    # It sees no image: one cell stands for every draw.
                    yield Place(choice, task, self.suite.shots[0], self.suite.seeds[0], backbones)

    def cells(self, draws: ShotsFiles | None = None, missing: Missing | None = None) -> list[Cell]:
        """The cells with their keys.

        Args:
            draws: few-shot draws that are given and not made here.
            missing: what to leave out: cells without their task or source, and of the others
                the targets and variants.

        Raises:
            CompatbenchError: images or weights that cannot be had, or a broken card.
        """
        missing = missing or Missing()
        training = self.suite.training.model_dump(mode="json", exclude={"max_steps"})
        cells = []
        for choice, task, shots, seed, backbones in self.places:
            if task in missing.test_sets or backbones[0] in missing.backbones:
                continue
            card = choice.method.card
            file = (draws or {}).get((task, shots, seed)) if card.learns else None
            fit_key = cell_key(
                choice.identity, choice.config, backbones[0], task, shots, seed, training, file
            )
            test_sets = (task, *suite_variants(self.suite, task))
            cells.append(
                Cell(
                    key=transfer_key(fit_key, choice.transfer),
                    fit_key=fit_key,
                    method=card.name,
                    config=choice.config,
                    task=task,
                    shots=shots,
                    seed=seed,
                    backbones=tuple(name for name in backbones if name not in missing.backbones),
                    test_sets=tuple(name for name in test_sets if name not in missing.test_sets),
                    training=self.suite.training,
                    plugin=choice.plugin,
                    shots_file=file,
                    config_name=choice.name if choice.name != card.name else "",
                    transfer=choice.transfer,
                )
            )
        return cells


def select_matrix(
    suite: SuiteCard,
    registry: MethodRegistry,
    methods: str | Sequence[str] = "all",
    tasks: str | Sequence[str] = "all",
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    transfers: Sequence[str] | None = None,
) -> Matrix:
    """The part of a suite that these names mean.

    Args:
        methods: names, globs, files and exclusions; ``all`` is what the suite compares.
        shots, seeds, transfers: the suite's by default.

    Raises:
        CompatbenchError: an unknown name, a broken card or method file, nothing chosen, a
            setting that a method does not know, or two configs that are the same.
    """
    names, named = _select_methods(suite, registry, methods)
    if not names:
        raise CompatbenchError(f"--methods {_quote(methods)} leaves no method")
    chosen = tuple(select_names(tasks, suite_tasks(suite), "task in this suite"))
    if not chosen:
        raise CompatbenchError(f"--tasks {_quote(tasks)} leaves no task of suite '{suite.name}'")
    draws = suite.shots if shots is None else shots, suite.seeds if seeds is None else seeds
    asked = check_draws(*draws)
    _check_shots(chosen, () if shots is None else asked[0])
    plain = [choose_method(suite, registry, name) for name in names]
    _check_distinct(suite, plain)
    choices = []
    for transfer in transfers or suite.transfers:
        serves = find_transfer(transfer)().serves
        served = [one for one in plain if one.method.card.depth != "none" or transfer == COPIED]
        own = [one for one in served if serves(one.method.card)]
        # What a transfer does not serve is measured where nothing else was asked for.
        own = own or [one for one in served if one.name in named]
        choices += [replace(one, transfer=transfer) for one in own]
    if not choices:
        raise CompatbenchError(
            f"--transfers {_quote(transfers or '')} changes nothing for {', '.join(names)}: their "
            "modules do not act in the joint space; name a method to have it all the same"
        )
    return Matrix(
        suite,
        registry,
        tuple(choices),
        chosen,
        tuple(asked[0]),
        tuple(asked[1]),
    )


def choose_method(suite: SuiteCard, registry: MethodRegistry, name: str) -> MethodChoice:
    """A method, or a config that the suite names, with its settings there.

    Raises:
        CompatbenchError: no such method, or a setting that it does not know.
    """
    cls = registry.get(suite.base_method(name))
    config = resolve_config(cls, suite, name)
    return MethodChoice(name, cls, config, method_identity(cls), MethodRegistry.plugin_file(cls))


def _check_shots(tasks: Sequence[str], shots: Sequence[int]) -> None:
    """Refuses more shots of each class than any of the tasks has images to train on."""
    counts = [task_cards.read(task).counts.get("train") for task in tasks]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return  # images of one's own are counted when they are read
    for number in shots:
        if max(known) < number < ALL_SHOTS:
            raise CompatbenchError(
                f"--shots '{number}': no task here has so many images per class; 'all' takes all"
            )


def _quote(value: str | Sequence[str]) -> str:
    return f"'{value if isinstance(value, str) else ','.join(value)}'"


def _select_methods(
    suite: SuiteCard, registry: MethodRegistry, wanted: str | Sequence[str]
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
    if parts and all(part.startswith("!") for part in parts):
        parts = ["all", *parts]
    names: list[str] = []
    for part in parts:
        if part == "all":
            names += compared
        elif part.endswith(".py"):
            names += registry.add_file(Path(part))
        else:
            names.append(part)
    known = [*registry.names(), *suite.configs]
    named = {name for name in names if name not in compared or name in parts}
    for name in names:
        if name in registry.broken:
            registry.get(name)  # raises why
    return select_names(names, known, "method") if names else [], named


def resolve_config(cls: type[Method], suite: SuiteCard, name: str | None = None) -> dict[str, Any]:
    """A method's settings in a suite: its recipe, what the suite changes, and the cap on steps.

    Args:
        name: a config of the method that the suite names; it begins with what the suite
            changes of the method itself.

    Raises:
        CompatbenchError: the suite sets something the method does not know.
    """
    values: dict[str, Any] = {}
    for key in dict.fromkeys((cls.card.name, name or cls.card.name)):
        values = _merge(cls, values, suite.methods.get(key, {}))
    if "max_steps" in cls.Config.model_fields and suite.training.max_steps is not None:
        values.setdefault("max_steps", suite.training.max_steps)
    try:
        return cls.Config(**values).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CompatbenchError(
            f"suite '{suite.name}': setting '{field}' of method '{name or cls.card.name}': "
            f"{first['msg']}"
        ) from None


def _merge(cls: type[Method], values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Changed settings over those before; of a recipe, only the parts that are named change."""
    changes = {key: value for key, value in changes.items() if key != "method"}
    recipe = changes.get("recipe")
    if isinstance(recipe, dict) and "recipe" in cls.Config.model_fields:
        before = values.get("recipe") or cls.Config.model_fields["recipe"].default.model_dump()
        changes["recipe"] = before | recipe
    return values | changes


def _check_distinct(suite: SuiteCard, choices: Sequence[MethodChoice]) -> None:
    seen: dict[str, str] = {}
    for choice in choices:
        same = sha256_json([choice.method.card.name, choice.config])
        first = seen.setdefault(same, choice.name)
        if first != choice.name:
            raise CompatbenchError(
                f"suite '{suite.name}': '{first}' and '{choice.name}' are one method with the "
                "same settings; drop one"
            )


def _paths(suite: SuiteCard) -> dict[str, tuple[str, ...]]:
    """Per source, itself and every backbone that some upgrade from it reaches.

    With ``retrained``, every target is a source, too, and is followed by nothing if no upgrade
    starts at it.
    """
    paths: dict[str, dict[str, None]] = {}
    for source, *targets in suite.upgrades:
        paths.setdefault(source, {source: None}).update(dict.fromkeys(targets))
    for name in fit_backbones(suite):
        paths.setdefault(name, {name: None})
    return {source: tuple(backbones) for source, backbones in paths.items()}
