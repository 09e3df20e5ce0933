"""``advise``: from results, or from one module, to what its owner should do in an upgrade."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from compatbench.data.cards import SuiteCard, backbone_cards, select_names, suite_cards
from compatbench.data.dataset_folders import cards_option, images_option
from compatbench.engine.request import Names
from compatbench.engine.single_module import read_fitted
from compatbench.errors import CompatbenchError
from compatbench.extras.advice.advice import Advice
from compatbench.extras.advice.advise_images import (
    OwnRequest,
    advise_images,
    choose_targets,
    join_names,
    list_transfers,
)
from compatbench.extras.advice.asked import Asked
from compatbench.extras.advice.measurements import measure_evaluations, read_measurements
from compatbench.extras.advice.own_images import are_images
from compatbench.extras.advice.stored_answers import Right, read_answers
from compatbench.extras.advice.targets import describe_target
from compatbench.method import Module
from compatbench.method.hub import local_file
from compatbench.results.estimate import Array
from compatbench.results.evaluation import evaluate
from compatbench.results.expected import upgrade_pairs
from compatbench.runs import results


def advise(
    suite: str | os.PathLike[str] | SuiteCard = "mini",
    methods: Names = "all",
    *,
    module: Module | str | Path | list[Module | str | Path] | None = None,
    upgrade: Names | None = None,
    target: Names | None = None,
    tasks: Names = "all",
    shots: int | None = None,
    source: str | None = None,
    labels: int | None = None,
    class_names: str | Sequence[str] | None = None,
    settings: Mapping[str, object] | None = None,
    skip_broken: bool = False,
    out: str | Path = ".",
    device: str = "auto",
    yes: bool = False,
    progress: bool = True,
) -> Advice:
    """Advise whether to keep, port or retrain modules in an upgrade, with expected accuracies.

    Without images or ``module`` nothing is computed: the advice comes from what ``run`` has left in
    ``results/``.

    Args:
        suite: your images: a folder or a file that ``new_task`` reads. A task is made of them in
            ``out``, and every image is tested, unless they have a test split. Or a task: its name,
            the path of its card, or what ``task`` or ``new_task`` returns. Or a suite, whose
            results are read: a name of ``suites()``, the path of a YAML file, or a card.
        methods: with images and no module, the methods to train; by default three cheap ones. With
            a module, the path of its method's file, if it is not among ``methods()``. Of a suite,
            those with results that are asked about: names, globs, exclusions.
        module: of ``fit``, or the file of one, measured on the new models untouched and through
            ``words``. With images it may be several, and checkpoints of other code that
            ``import_module`` reads.
        upgrade: (source, target), or "source,target", of those of the suite; by default all.
        target: new models to compare, each a row of ``Advice.targets``: with a module any
            backbones, 'all' those on this machine; without one the suite's, 'all' all of them.
        tasks: of the suite, likewise; means are over these. Not with a module.
        shots: by default the most that the suite has. Not with a module.
        source: with images: the old model, that a checkpoint was trained on.
        labels: with images: retrain with so many labelled images per class, too. Modules are
            cross-fitted: no image trains the module that is tested on it.
        class_names: with images: the classes of a checkpoint in its order, or a file with a name on
            each line, as ``classes`` of ``import_module``.
        settings: with images: settings that a checkpoint does not contain, such as ``alpha=1``.
        skip_broken: with images: leave out those that cannot be read, and list them in a file.
        out: the folder of ``results/``; with images, the folder to write to: ``advice.md``,
            ``advice.json``, the cards of the task, and modules that were imported or trained.
        yes: download weights that are missing.
        progress: show how far it is, in a notebook, or on a terminal's stream of errors.

    Returns:
        The verdicts: ``frame`` and ``options`` have the figures, ``str()`` says it in words.

    Raises:
        CompatbenchError: no results, an unknown name, or an upgrade that the suite does not have;
            or a module that is significantly worse than zero-shot on its own model.
    """
    if isinstance(suite, os.PathLike):
        suite = os.fspath(suite)
    has_images = isinstance(suite, str) and are_images(suite)
    modules: list[Module | str | Path] = []
    if module is not None:
        modules = list(module) if isinstance(module, list | tuple) else [module]
    several = isinstance(module, list | tuple)
    checkpoint = {"class_names (--class-names)": class_names, "settings (--set)": settings}
    of_images = {"source (--source)": source, "labels (--labels)": labels, **checkpoint}
    of_images |= {"skip_broken (--skip-broken)": skip_broken, "several modules": several}
    of_suite = {"tasks (--tasks)": tasks != "all", "shots (--shots)": shots is not None}
    if module is not None:
        why = "a module is measured on the task and with the shots that it has"
        _refuse_unused(of_suite, f"{why}: leave out tasks and shots")
    if upgrade is not None and target is not None:
        raise CompatbenchError("give upgrade or target: an upgrade names its target")
    if has_images:
        _refuse_unused(of_suite, "they are for the results of a suite, not for images")
        if upgrade is not None:
            _refuse_unused({"source (--source)": source}, "an upgrade names its source")
        if module is None:
            _refuse_unused(checkpoint, "they are for a checkpoint: give it, too (module)")
    else:
        where = f"there are no images at '{suite}', and no task has that name"
        _refuse_unused(of_images, f"{where}; give a folder, a file or a task")
    if has_images:
        if upgrade is not None:
            source, target = _split_upgrade(upgrade)
        request = OwnRequest(
            str(suite),
            modules,
            methods,
            source,
            target,
            labels,
            Path(out),
            device,
            yes,
            progress,
            class_names,
            settings,
            skip_broken,
        )
        return advise_images(request)
    card = suite_cards.read(suite)
    pairs = upgrade_pairs(card.upgrades)
    if upgrade is not None:
        pair = tuple(backbone_cards.resolve_all(upgrade))
        if pair not in pairs:
            known = ", ".join(map(" → ".join, pairs))
            raise CompatbenchError(
                f"suite '{card.name}' has no upgrade {' → '.join(pair)}; it has {known}"
            )
        pairs = ((pair[0], pair[1]),)
    if modules:
        return _advise_module(modules[0], methods, pairs, target, card.name, device)
    return _advise_suite(card, methods, pairs, target, tasks, shots, Path(out))


def _refuse_unused(given: Mapping[str, object], why: str) -> None:
    """Raise CompatbenchError for parameters that would be ignored."""
    unused = [name for name, value in given.items() if value not in (None, False)]
    if unused:
        raise CompatbenchError(f"{', '.join(unused)} cannot be used here: {why}")


def _advise_suite(
    card: SuiteCard,
    methods: Names,
    pairs: Sequence[tuple[str, str]],
    target: Names | None,
    tasks: Names,
    shots: int | None,
    out: Path,
) -> Advice:
    """Return advice from the results of a suite."""
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

    def find_answers(rows: pd.DataFrame, names: Sequence[str]) -> tuple[Right, Array] | None:
        return read_answers(rows, names, out, card.training.precision)

    measured = [
        read_measurements(of_suite.suite, of_suite.expected, pair, chosen, find_answers)
        for pair in pairs
    ]
    compared = {new: describe_target(new) for _, new in pairs} if target is not None else {}
    return Advice(tuple(measured), compared)


def _split_upgrade(upgrade: Names) -> tuple[str, str]:
    """Return the old and the new model of ``OLD,NEW``."""
    names = backbone_cards.resolve_all(upgrade)
    if len(names) != 2:
        raise CompatbenchError("upgrade: give the old and the new model, 'OLD,NEW'")
    return names[0], names[1]


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
        known = choose_targets(targets, fitted.source)
    if not known:
        raise CompatbenchError(
            f"the module was fitted on '{fitted.source}'; suite '{suite}' has no such upgrade of "
            "it: give the suite of yours, --suite, or new models, --target"
        )
    measured = []
    file = None if methods == "all" else join_names(methods)
    for target in known:
        evaluations = []
        for transfer in list_transfers(fitted.method, methods):
            how = {"transfer": transfer, "methods": file, "device": device}
            evaluations.append((fitted.method, evaluate(address, target, **how)))
        measured.append(measure_evaluations(evaluations))
    compared = {target: describe_target(target) for target in known} if targets else {}
    if isinstance(address, Module):
        return Advice(tuple(measured), compared, Asked((), task=fitted.task))
    words = ["advise", fitted.task, "--module", str(address), "--target", ",".join(known)]
    own_method = ("--methods", file) if file is not None else ()
    cards = cards_option(fitted.task, fitted.source, *known)
    data_root = images_option(fitted.task)
    places = (*cards, *data_root)
    files = {(fitted.method, ""): str(address)}
    asked = Asked(
        (*words, *own_method, *places),
        files,
        places=places,
        cards=cards,
        data_root=data_root,
        methods=own_method,
    )
    return Advice(tuple(measured), compared, asked)
