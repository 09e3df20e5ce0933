"""A request: the part of a suite that a command or a Python function works on.

``make_request`` turns names, globs and exclusions into plain names, and refuses what does not fit.
Everything after it takes the request and repeats none of its fields. ``check_names`` is the part
that needs no PyTorch, for commands that want to refuse a misspelt name at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from compatbench.backbone.load.backbone_names import check_plain_name
from compatbench.data.cards import (
    SuiteCard,
    TrainingCard,
    select_names,
    suite_cards,
    suite_variants,
    task_cards,
    unknown_name,
    whole_name,
)
from compatbench.data.cards.shots import ALL_SHOTS, Numbers, check_draws
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import content_names

# Methods and transfers load torch, which takes seconds. They are imported last, so that a
# misspelt suite or task is reported at once.
Names = str | Sequence[str]
Methods = str | type | Sequence[str | type]
CLASSES = Path("results", "classes")  # files of classes that were given in place of names


@dataclass(frozen=True, eq=False)
class Request:
    """The part of a suite to work on. All names are resolved, and everything is known to exist."""

    suite: SuiteCard  # with the precision and the settings to try that were requested
    suite_given: str  # the name or path of the suite, for commands in messages
    methods: tuple[str, ...]  # methods and named configs
    test_sets: Mapping[str, tuple[str, ...]]  # of each task: its own and its variants, or some
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    transfers: tuple[str, ...]
    # Methods that are measured by every transfer, even by one that changes nothing for them.
    named_methods: frozenset[str] = frozenset()
    out: Path = Path()  # the folder of runs/ and results/
    skip_missing: bool = False  # leave out cells without images or weights
    shard: tuple[int, int] | None = None  # this part, from 1 on, and the number of parts
    trial: bool = False  # of settings that are not the suite's; its rows are not published
    held_out_of: int | None = None  # the shots of the draw that tuning holds a quarter out of

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that modules are fitted on."""
        return tuple(self.test_sets)


def make_request(
    suite: str | SuiteCard = "mini",
    methods: Methods = "all",
    *,
    tasks: Names = "all",
    seeds: Numbers | None = None,
    shots: Numbers | None = None,
    transfers: Names | None = None,
    out: str | Path = ".",
    precision: str | None = None,
    skip_missing: bool = False,
    shard: str | None = None,
    config: Mapping[str, object] | None = None,
    held_out_of: int | None = None,
) -> Request:
    """Resolve and check what was requested. Fetch nothing and read no images.

    Args:
        suite, methods, tasks, seeds, shots, transfers, out: as for ``compatbench.run``.
        precision, skip_missing, shard, config: as for ``compatbench.run``.
        held_out_of: the shots of the draws that tuning holds images out of.

    Raises:
        CompatbenchError: an unknown name, a broken card or method file, or an empty selection.
    """
    card = suite_cards.read(suite)
    suite_given = suite.name if isinstance(suite, SuiteCard) else os.fspath(suite)
    test_sets = _select_test_sets(card, tasks)
    if seeds is None:
        seeds = _first_seeds(card)
    shot_numbers, seed_numbers = check_draws(card.shots if shots is None else shots, seeds)
    if shots is not None:
        _check_shots(shot_numbers, list(test_sets))
    part = None if shard is None else parse_shard(shard)

    from compatbench.method.live_class import write_classes

    selection = write_classes(methods, Path(out) / CLASSES)
    if precision is not None:
        card = _with_precision(card, precision, suite_given)
    if config:
        card, selection = _with_trial(card, selection, config)
    names, named = _select_methods(card, selection)
    return Request(
        suite=card,
        suite_given=suite_given,
        methods=tuple(names),
        test_sets=test_sets,
        shots=tuple(shot_numbers),
        seeds=tuple(seed_numbers),
        transfers=_select_transfers(card, transfers),
        named_methods=frozenset() if transfers is None else frozenset(named),
        out=Path(out),
        skip_missing=skip_missing,
        shard=part,
        trial=bool(config),
        held_out_of=held_out_of,
    )


def check_names(
    suite: str | SuiteCard | None = None,
    *,
    methods: Names | None = None,
    tasks: Names | None = None,
    transfers: Names | None = None,
    backbones: Iterable[str | None] = (),
) -> None:
    """Raise an error for a misspelt name without loading PyTorch, which takes seconds.

    Names that only loaded code can know are left to ``make_request``: those in method files, and
    those of installed packages. So are globs. Without a suite, tasks may be of any suite.
    """
    card = None if suite is None else suite_cards.read(suite)
    if tasks is not None:
        if card is None:
            _check_known("task", _plain_names(tasks), task_cards.names())
        else:
            _select_test_sets(card, tasks)
    if methods is not None and not (card is not None and card.plugins):
        configs = [] if card is None else list(card.configs)
        _check_content("method", _plain_names(methods), configs)
    if transfers is not None:
        names = [label.partition("+")[0] for label in _plain_names(transfers)]
        _check_content("transfer", names)
    for name in backbones:
        if name is not None:
            check_plain_name(name)


def _check_content(kind: str, names: Iterable[str], also: Sequence[str] = ()) -> None:
    """Raise an error for a name that no file here has, unless an installed package may have it."""
    if not entry_points(group=f"compatbench.{kind}s"):
        _check_known(kind, names, sorted([*content_names(f"{kind}s"), *also]))


def _check_known(kind: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known and not (kind == "task" and whole_name(name) in known):
            raise CompatbenchError(unknown_name(name, known, kind))


def _plain_names(selection: Names) -> Iterator[str]:
    """Yield the names of a selection; none if it has a file, which may define any name."""
    parts = [part.removeprefix("!") for part in _split(selection)]
    if any(".py" in part or "/" in part for part in parts):
        return
    for part in parts:
        is_pattern = part == "all" or any(character in part for character in "*?[")
        if not is_pattern and not part.endswith((".yaml", ".yml")):
            yield part


def _select_test_sets(suite: SuiteCard, selection: Names) -> dict[str, tuple[str, ...]]:
    """Return the selected test sets of every task; a task stands for its variants too."""
    variants = suite_variants(suite)
    # Tasks of the protocol base-to-new are halves, which are selected by the whole task's name.
    task_of_whole = {whole_name(task): task for task in variants}
    parts = []
    selected = task_cards.resolve_all(selection)
    if not any(selected):
        raise _option_error("tasks", "'' names no task; 'all' is every task of the suite")
    for part in selected:
        given = part.removeprefix("!")
        excluding = "!" if given != part else ""
        name = task_of_whole.get(given, given)
        for each in (name, *variants.get(name, ())):
            parts.append(excluding + each)
    known = []
    for task, more in variants.items():
        known += [task, *more]
    chosen = set(select_names(parts, known, "task in this suite"))
    test_sets = {}
    for task, more in variants.items():
        kept = tuple(name for name in (task, *more) if name in chosen)
        if kept:
            test_sets[task] = kept
    if not test_sets:
        problem = f"{_quote(selection)}: no task of suite '{suite.name}' matches"
        raise _option_error("tasks", problem)
    return test_sets


def _first_seeds(suite: SuiteCard) -> tuple[int, ...]:
    """Return the seeds of a request that names none: those of a suite's first run, or all."""
    first = tuple(seed for seed in suite.seeds if seed in suite.run_seeds)
    return first or suite.seeds


def _check_shots(shots: Sequence[int], tasks: Sequence[str]) -> None:
    """Raise CompatbenchError if no task has as many training images per class as requested."""
    # The user's own images have no count on their card. They are counted when they are read.
    cards = [task_cards.read(task) for task in tasks]
    most = max(card.counts.get("train", ALL_SHOTS) for card in cards)
    for number in shots:
        if most < number < ALL_SHOTS:
            # A class of each task has at least the mean of its task.
            fitting = max(card.counts.get("train", 0) // len(card.classes) for card in cards)
            problem = f"'{number}': no task here has so many images per class; "
            problem += f"try shots={max(fitting, 1)}"
            raise _option_error("shots", problem)


def parse_shard(text: str) -> tuple[int, int]:
    """Return the part, from 1 on, and the number of parts of a shard such as ``3/8``."""
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
        return int(index), int(count)
    raise _option_error("shard", f"'{text}': give I/N, such as 3/8, with I from 1 to N")


def _with_precision(suite: SuiteCard, precision: str, suite_given: str) -> SuiteCard:
    """Return the suite with another number format of the frozen towers."""
    from compatbench.method import read_settings

    values = suite.training.model_dump() | {"precision": precision}
    training = read_settings(TrainingCard, values, f"suite '{suite_given}'")
    return suite.model_copy(update={"training": training})


def _with_trial(
    suite: SuiteCard, methods: Names, config: Mapping[str, object]
) -> tuple[SuiteCard, list[str]]:
    """Return the suite with a named config for each method, and the methods with these."""
    from compatbench.engine.method_settings import name_configs

    names, _ = _select_methods(suite, methods)
    configs = name_configs(names, config)
    suite = suite.model_copy(update={"methods": suite.methods | configs, "publish": False})
    return suite, [*names, *configs]


def _select_methods(suite: SuiteCard, selection: Names) -> tuple[list[str], set[str]]:
    """Return the selected methods and named configs, and those that the selection itself names.

    ``all`` stands for what the suite compares.
    """
    from compatbench.method.registry import builtin_methods

    registry = builtin_methods()
    for path in suite.plugins:
        registry.add_file(path)
    for name in suite.configs:
        if name in registry.classes:
            raise CompatbenchError(
                f"suite '{suite.name}': config '{name}' has the name of a method; rename it"
            )
        registry.get(suite.base_method(name))
    compared = select_names(suite.compare, [*registry.names(), *suite.configs], "method")
    parts = _split(selection)
    if not parts:
        raise _option_error("methods", "'' names no method; 'all' is what the suite compares")
    if all(part.startswith("!") for part in parts):
        parts = ["all", *parts]
    names = []
    for part in parts:
        names += compared if part == "all" else [part]
    chosen = registry.select(",".join(names), suite.configs) if names else []
    if not chosen:
        raise _option_error("methods", f"{_quote(selection)}: no method matches")
    named = {name for name in chosen if name not in compared or name in parts}
    return chosen, named


def _select_transfers(suite: SuiteCard, selection: Names | None) -> tuple[str, ...]:
    """Return the selected transfers; without a selection those of the suite."""
    from compatbench.method.registry import builtin_transfers

    listed = suite.transfers if selection is None else _split(selection)
    if not listed:
        raise _option_error("transfers", "'' names no transfer; leave it out for the suite's")
    return tuple(builtin_transfers().choose(listed))


def _split(selection: Names) -> list[str]:
    """Return the parts of a list, or of a string with commas, without empty ones."""
    parts = selection.split(",") if isinstance(selection, str) else selection
    return [part.strip() for part in parts if part.strip()]


def _quote(selection: Names) -> str:
    text = selection if isinstance(selection, str) else ",".join(map(str, selection))
    return f"'{text}'"


def _option_error(argument: str, problem: str) -> CompatbenchError:
    """Return an error that names the option of the command and the argument in Python."""
    return CompatbenchError(f"--{argument} (in Python: {argument}): {problem}")
