"""``advise``: from results, or from one module, to what its owner should do in an upgrade."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compatbench.data.cards import COPIED, SuiteCard, backbone_cards, select_names, suite_cards
from compatbench.data.task import Task
from compatbench.engine.request import Names
from compatbench.engine.single_module import read_fitted
from compatbench.errors import CompatbenchError
from compatbench.extras.advice.advice import Advice
from compatbench.extras.advice.measurements import measure_evaluations, read_measurements
from compatbench.extras.advice.own_images import (
    are_images,
    check_modules,
    open_images,
    read_modules,
)
from compatbench.extras.advice.targets import backbones_here, describe_target
from compatbench.method import Module
from compatbench.method.hub import local_file
from compatbench.method.registry import builtin_methods, find_transfer
from compatbench.results.evaluation import Evaluation, evaluate
from compatbench.results.expected import upgrade_pairs
from compatbench.runs import results


def advise(
    suite: str | Path | SuiteCard = "mini",
    methods: Names = "all",
    *,
    module: Module | str | Path | list[Module | str | Path] | None = None,
    upgrade: Names | None = None,
    target: Names | None = None,
    tasks: Names = "all",
    shots: int | None = None,
    source: str | None = None,
    out: str | Path = ".",
    device: str = "auto",
) -> Advice:
    """Advise whether to keep, port or retrain modules in an upgrade, with expected accuracies.

    Without ``module`` nothing is computed but what ``run`` has left in ``results/``.

    Args:
        suite: a name of ``suites()``, the path of a YAML file, or a card. With a module it may be
            your images instead: a folder or a file that ``new_task`` reads, or the name of a task.
            A task is made of them in ``out``, and all images are test images, unless they have a
            test split.
        methods: those with results that are asked about: names, globs, exclusions; beside a
            module the path of its method's file, if it is not among ``methods()``.
        module: of ``fit``, or the file of one. It is measured on the targets of the suite,
            untouched and through ``words``; what was run is not looked at. With images it may be
            several, and checkpoints of other code that ``import_module`` reads.
        upgrade: (source, target), or "source,target", of those of the suite; by default all.
        target: new models to compare, each a row of ``Advice.targets``: with a module any
            backbones, 'all' those on this machine; without one the suite's, 'all' all of them.
        tasks: of the suite, likewise; means are over these. Not with a module.
        shots: by default the most that the suite has. Not with a module.
        source: with images: the old model, that a checkpoint was trained on.
        out: the folder of ``results/``; with images, the folder for the cards of the task.

    Returns:
        The verdicts: ``frame`` and ``options`` have the figures, ``str()`` says it in words.

    Raises:
        CompatbenchError: no results, an unknown name, or an upgrade that the suite does not have;
            or a module that is significantly worse than zero-shot on its own model.
    """
    if module is not None and (tasks != "all" or shots is not None):
        raise CompatbenchError(
            "a module is measured on the task and with the shots that it has: leave out tasks and "
            "shots"
        )
    if upgrade is not None and target is not None:
        raise CompatbenchError("give upgrade or target: an upgrade names its target")
    if isinstance(suite, Path):
        suite = str(suite)
    if isinstance(suite, str) and are_images(suite):
        if module is None or upgrade is not None:
            raise CompatbenchError(
                f"{suite} has images: give the module or modules to test on them (--module), and "
                "the new models (--target)"
            )
        modules = list(module) if isinstance(module, list | tuple) else [module]
        return _advise_images(suite, modules, methods, source, target, Path(out), device)
    if source is not None or isinstance(module, list | tuple):
        raise CompatbenchError(
            f"there are no images at '{suite}', and no task has that name; a module with a source, "
            "or several modules, need a folder, a file or a task"
        )
    card = suite_cards.read(suite)
    pairs = upgrade_pairs(card.upgrades)
    if upgrade is not None:
        asked = tuple(backbone_cards.resolve_all(upgrade))
        if asked not in pairs:
            known = ", ".join(map(" → ".join, pairs))
            raise CompatbenchError(
                f"suite '{card.name}' has no upgrade {' → '.join(asked)}; it has {known}"
            )
        pairs = ((asked[0], asked[1]),)
    if module is not None:
        return _advise_module(module, methods, pairs, target, card.name, device)
    if target is not None:
        known = list(dict.fromkeys(pair[1] for pair in pairs))
        kept = select_names(target, known, f"target of suite '{card.name}'")
        pairs = [pair for pair in pairs if pair[1] in kept]
    of_suite = results(card, out)
    learning = sorted(info.name for info in of_suite.suite.infos if info.learns)
    of = f"of suite '{card.name}'"
    if not learning:
        raise CompatbenchError(f"advice is about methods that learn; the results {of} have none")
    chosen = select_names(methods, learning, f"method with modules in the results {of}")
    if tasks != "all":
        every = of_suite.expected.measured_tasks
        of_suite = of_suite.restrict(select_names(tasks, every, f"task {of}"))
    if shots is not None:
        of_suite = of_suite.restrict(shots=[shots])
    measured = [
        read_measurements(of_suite.suite, of_suite.expected, pair, chosen) for pair in pairs
    ]
    compared = {new: describe_target(new) for _, new in pairs} if target is not None else {}
    return Advice(tuple(measured), compared)


def _advise_module(
    module: Module | str | Path,
    methods: Names,
    pairs: Sequence[tuple[str, str]],
    targets: Names | None,
    suite: str,
    device: str,
) -> Advice:
    address = local_file(module)
    _, fitted = read_fitted(address)
    if targets is None:
        known = [target for source, target in pairs if source == fitted.source]
    else:
        known = _choose_targets(targets, fitted.source)
    if not known:
        raise CompatbenchError(
            f"the module was fitted on '{fitted.source}'; suite '{suite}' has no such upgrade of "
            "it: give the suite of yours, --suite, or new models, --target"
        )
    measured = []
    for target in known:
        evaluations = _evaluate(address, fitted.method, target, methods, device)
        measured.append(measure_evaluations([(fitted.method, each) for each in evaluations]))
    compared = {target: describe_target(target, device) for target in known} if targets else {}
    return Advice(tuple(measured), compared)


def _advise_images(
    images: str | Path,
    modules: Sequence[Module | str | Path],
    methods: Names,
    source: str | None,
    targets: Names | None,
    out: Path,
    device: str,
) -> Advice:
    """Return advice on modules that are tested on one's own images; see ``own_images``."""
    if targets is None:
        raise CompatbenchError("give the new models to test the module on: target (--target)")
    if source is None:
        _, fitted = read_fitted(local_file(modules[0]))
        source = fitted.source
    known = _choose_targets(targets, backbone_cards.resolve(source))
    task = open_images(images, source, known, out)
    read = read_modules(modules, task, source, device)
    measured = []
    for target in known:
        evaluations = []
        for name, module in read.items():
            method = str(module.about["method"])
            for each in _evaluate(module, method, target, methods, device, task):
                evaluations.append((name, each))
        if not measured:  # the old model is the same for every target
            check_modules(evaluations)
        measured.append(measure_evaluations(evaluations))
    compared = {target: describe_target(target, device) for target in known}
    return Advice(tuple(measured), compared)


def _choose_targets(targets: Names, source: str) -> list[str]:
    """Return the names of new models; ``all`` are those on this machine."""
    if targets == "all":
        return backbones_here(source)
    return list(dict.fromkeys(backbone_cards.resolve_all(targets)))


def _evaluate(
    module: Module | Path,
    method: str,
    target: str,
    methods: Names,
    device: str,
    task: Task | None = None,
) -> list[Evaluation]:
    """Return a module's evaluations on a target, untouched and through words where it can be."""
    file = None
    if methods != "all":
        file = ",".join([methods] if isinstance(methods, str) else methods)
    card = builtin_methods().get(method).card
    transfers = [COPIED]
    if find_transfer("words").serves(card):
        transfers.append("words")
    how = {"methods": file, "device": device}
    return [evaluate(module, target, task, transfer=name, **how) for name in transfers]
