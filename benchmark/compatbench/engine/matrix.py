"""The cells of a request: every method with its settings, by every transfer, at every place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from compatbench.data.cards import COPIED, SuiteCard, TaskCard, task_cards
from compatbench.engine.cell import Cell
from compatbench.engine.method_settings import Settings, resolve_settings
from compatbench.engine.missing import fit_backbones
from compatbench.engine.request import Request
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json
from compatbench.method import Method
from compatbench.method.registry import builtin_methods, builtin_transfers, find_transfer


@dataclass(frozen=True, eq=False)
class MethodChoice:
    """A method, or a named config of one, with a suite's settings and one transfer."""

    name: str  # in the suite and in results
    method: type[Method]
    settings: Mapping[str, Settings]  # by task
    identity: str  # of the method's code, for keys
    plugin: str | None  # the file that it was loaded from, if that is not among the methods
    transfer: str = COPIED

    def build(self, task: str) -> Method:
        """Return the method with its settings for a task."""
        return self.method(self.method.Config.model_validate(self.settings[task].config))


@dataclass(frozen=True)
class Matrix:
    """Every cell of a request, listed once, without images or weights."""

    request: Request
    choices: tuple[MethodChoice, ...]

    @property
    def suite(self) -> SuiteCard:
        return self.request.suite

    @cached_property
    def cards(self) -> dict[str, TaskCard]:
        """The cards of the tasks, each read once."""
        return {name: task_cards.read(name) for name in self.request.tasks}

    @cached_property
    def _choice_by_cell(self) -> dict[tuple[str, str], MethodChoice]:
        return {(choice.name, choice.transfer): choice for choice in self.choices}

    def choice(self, cell: Cell) -> MethodChoice:
        """Return the choice of a cell's method and transfer."""
        return self._choice_by_cell[cell.name, cell.transfer]

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell, still without its key. Cells of one task and source follow each other."""
        draws = list(product(self.request.shots, self.request.seeds))
        sources = {upgrade[0] for upgrade in self.suite.upgrades}
        transfer_code = {}
        for choice in self.choices:
            name = choice.transfer.partition("+")[0]
            identity, plugin = builtin_transfers().identify(name)
            transfer_code[choice.transfer] = (plugin, identity if plugin else None)
        cells = []
        for task, backbones in product(self.request.tasks, _upgrade_backbones(self.suite)):
            for draw, choice in product(draws, self.choices):
                learns = choice.method.card.learns
                # A module fitted on a target is already there and needs no transfer.
                fits_on_target = learns and choice.transfer == COPIED
                if backbones[0] not in sources and not fits_on_target:
                    continue
                # Without learning, one cell stands for all draws: it sees no training image.
                if not learns and draw != draws[0]:
                    continue
                shots, seed = draw if learns else (self.suite.shots[0], self.suite.seeds[0])
                transfer_plugin, transfer_identity = transfer_code[choice.transfer]
                cell = Cell(
                    key="",
                    fit_key="",
                    name=choice.name,
                    method=choice.method.card.name,
                    config=choice.settings[task].config,
                    task=task,
                    shots=shots,
                    seed=seed,
                    backbones=backbones,
                    test_sets=self.request.test_sets[task],
                    places=(),
                    training=choice.settings[task].training,
                    plugin=choice.plugin,
                    identity=choice.identity,
                    held_out_of=self.request.held_out_of,
                    transfer=choice.transfer,
                    transfer_plugin=transfer_plugin,
                    transfer_identity=transfer_identity,
                )
                cells.append(cell)
        return tuple(cells)


def _upgrade_backbones(suite: SuiteCard) -> list[tuple[str, ...]]:
    """Return every backbone that modules are fitted on, each with its targets after it.

    With ``retrained``, every target is also a source, perhaps of no upgrade.
    """
    paths: dict[str, dict[str, None]] = {}  # by source; dictionaries as ordered sets
    for source, *targets in suite.upgrades:
        paths.setdefault(source, {source: None}).update(dict.fromkeys(targets))
    for name in fit_backbones(suite):
        paths.setdefault(name, {name: None})
    return [tuple(path) for path in paths.values()]


def build_matrix(request: Request) -> Matrix:
    """Return the cells of a request, with the settings of every method on every task.

    Raises:
        CompatbenchError: wrong settings, or transfers that change nothing for these methods.
    """
    methods = _load_methods(request)
    choices: list[MethodChoice] = []
    for label in request.transfers:
        transfer = find_transfer(label)
        eligible = []
        for choice in methods:
            # Zero-shot has no module that a transfer could change.
            if choice.method.card.depth != "none" or label == COPIED:
                eligible.append(choice)
        served = [choice for choice in eligible if transfer.serves(choice.method.card)]
        if not served:
            # A method is measured with any transfer if the request names both.
            served = [choice for choice in eligible if choice.name in request.named_methods]
            for choice in served:
                transfer.require(choice.method.card)
        choices += [replace(choice, transfer=label) for choice in served]
    if not choices:
        raise CompatbenchError(
            f"--transfers (in Python: transfers): '{','.join(request.transfers)}' changes nothing "
            f"for {', '.join(request.methods)}; choose another transfer, or name a method to "
            "measure it all the same"
        )
    return Matrix(request, tuple(choices))


def _load_methods(request: Request) -> list[MethodChoice]:
    """Return the methods with their settings; refuse two that would be measured alike."""
    suite = request.suite
    registry = builtin_methods()
    choices = []
    name_of: dict[str, str] = {}  # by the hash of a method's settings
    for name in request.methods:
        cls = registry.get(suite.base_method(name))
        settings = {task: resolve_settings(cls, suite, name, task) for task in request.tasks}
        values = [[one.config, one.training.model_dump()] for one in settings.values()]
        first = name_of.setdefault(sha256_json([cls.card.name, values]), name)
        if first != name:
            raise CompatbenchError(
                f"suite '{suite.name}': '{first}' and '{name}' are one method with the same "
                "settings; drop one"
            )
        identity, plugin = registry.identify(cls.card.name)
        choices.append(MethodChoice(name, cls, settings, identity, plugin))
    return choices
