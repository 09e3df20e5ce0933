"""Advice from your own images: test modules on them, or train some, and judge every new model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from compatbench.data.cards import COPIED, backbone_cards, is_card_path
from compatbench.data.dataset_folders import cards_option
from compatbench.data.task import Task, load_task
from compatbench.engine.request import Names
from compatbench.errors import CompatbenchError
from compatbench.extras.advice.advice import Advice
from compatbench.extras.advice.asked import Asked
from compatbench.extras.advice.cross_fit import (
    CHEAP_METHODS,
    SEEDS,
    CrossFit,
    cross_fit,
    default_shots,
    own_settings,
    read_suite,
    serves,
)
from compatbench.extras.advice.measurements import Answered, answers_of, measure_answers
from compatbench.extras.advice.own_images import (
    OwnImages,
    check_modules,
    check_places,
    fetch_missing_files,
    images_for,
    open_images,
    read_modules,
    read_own_module,
)
from compatbench.extras.advice.remembered import Memory
from compatbench.extras.advice.saved_advice import save_advice, save_modules, save_trained
from compatbench.extras.advice.targets import backbones_here
from compatbench.messages import can_show_bar, count
from compatbench.method import Module
from compatbench.method.registry import builtin_methods
from compatbench.results.evaluation import Evaluation
from compatbench.tables.console import SafeConsole


@dataclass(frozen=True)
class OwnRequest:
    """What advice on one's own images was asked for; the arguments of ``advise``."""

    images: str
    modules: Sequence[Module | str | Path]
    methods: Names
    source: str | None
    target: Names | None
    labels: int | None
    out: Path
    device: str
    yes: bool
    progress: bool
    class_names: str | Sequence[str] | None = None  # of a checkpoint, in its order
    settings: Mapping[str, object] | None = None  # that a checkpoint does not contain
    skip_broken: bool = False

    def words(self, modules: Sequence[str]) -> tuple[str, ...]:
        """Return the words of the command without labels and places; ``modules`` are files."""
        words = ["advise", self.images]
        for module in modules:
            words += ["--module", module]
        if self.methods != "all":
            words += ["--methods", join_names(self.methods)]
        if self.source is not None:
            words += ["--source", self.source]
        if self.target is not None:
            words += ["--target", join_names(self.target)]
        return tuple(words)

    def places(self, own: OwnImages, backbones: Sequence[str]) -> tuple[str, ...]:
        """Return the words that name images to skip, and folders of results, cards and images."""
        words = []
        if self.skip_broken:
            words.append("--skip-broken")
        if self.out != Path():
            words += ["--out", str(self.out)]
        made_here = own.cards in ((), ("--cards", str(self.out)))
        are_given = Path(self.images).expanduser().exists() and not is_card_path(self.images)
        if made_here and are_given:
            words += cards_option(None, *backbones)
        else:
            words += (*cards_option(own.task.name, *backbones), *own.data_root)
        return tuple(words)


def join_names(names: Names) -> str:
    """Return names with commas between them."""
    return names if isinstance(names, str) else ",".join(names)


def advise_images(request: OwnRequest) -> Advice:
    """Return advice on modules that are tested on one's own images, and write it to a folder."""
    if request.target is None:
        raise CompatbenchError("Name one or more new models: --target NAME")
    check_places(request.modules)  # before anything is written
    source = _find_source(request)
    targets = choose_targets(request.target, source)
    fetch_missing_files([source, *targets], request.yes)
    own = open_images(request.images, source, targets, request.out, request.skip_broken)
    file = None if request.methods == "all" else join_names(request.methods)
    memory = Memory(request.out / "runs" / "answers", file, request.device)
    if request.labels is not None:
        _check_labels(request.labels, own)
    how = {"classes": request.class_names, "settings": request.settings}
    modules = read_modules(request.modules, own.tested, request.source, how, memory)
    own = images_for(own, modules)
    evaluations = _evaluate_modules(request, modules, targets, own.tested, memory)
    notes = []
    trained = CrossFit()
    if modules:
        names = {str(module.about["method"]): name for name, module in reversed(modules.items())}
    else:
        chosen = _choose_methods(request.methods)
        names = {name: name for name in chosen}
        shots = default_shots(own.task.name, source)
        upgrades = [(source, target) for target in targets]
        trained = _fit(request, own, chosen, upgrades, shots, (COPIED, "words"))
        notes.append(_describe_fits(request.methods == "all", chosen, shots, own))
    retrained = CrossFit()
    if request.labels is not None:
        alone = [(target,) for target in targets]
        settings = {}
        for method, name in names.items():
            if name in modules:
                settings[method] = own_settings(modules[name])
        retrained = _fit(request, own, sorted(names), alone, request.labels, (COPIED,), settings)
        suite = read_suite(own.task.name, targets[0]).name
        learned = _describe_fits(False, ["Retrained modules"], request.labels, own)
        notes.append(f"{learned} {_describe_settings(names, modules, settings, suite)}")
    measured = []
    for target in targets:
        of_target = [pair for pair in evaluations if pair[1].backbone == target]
        answered, zero_shot = answers_of(of_target)
        answered += _collect_trained(trained, names, source, target)
        answered += _collect_retrained(retrained, names, target, request.labels)
        if zero_shot is None:
            zero_shot = trained.zero_shot.get(target, retrained.zero_shot.get(target))
        task_of = np.zeros(len(own.tested.split("test")))
        measured.append(
            measure_answers(
                (source, target), answered, zero_shot, [own.task.name], task_of, own.half_of()
            )
        )
    files = save_modules(request.out, own.task.name, modules, request.modules)
    files |= save_trained(request.out, own.task.name, names, trained, retrained, source)
    # A checkpoint was imported, so that its classes and settings need not be given again.
    words = request.words([files[name, ""] for name in modules])
    places = request.places(own, [source, *targets])
    asked = Asked(
        (*words, *places),
        files,
        request.labels,
        places,
        cards=(*own.cards, *cards_option(None, source, *targets)),
        data_root=own.data_root,
        methods=("--methods", file) if modules and file is not None else (),
        notes=tuple(notes),
    )
    facts = {target: memory.describe(target) for target in targets}
    advice = Advice(tuple(measured), facts, asked)
    save_advice(advice, own.task.name, request.out)
    return advice


def _find_source(request: OwnRequest) -> str:
    """Return the old model: the given one, or that of a module."""
    if request.source is not None:
        return backbone_cards.resolve(request.source)
    if not request.modules:
        raise CompatbenchError("Name the old model: --source NAME")
    _, fitted = read_own_module(request.modules[0])
    return fitted.source


def choose_targets(targets: Names, source: str) -> list[str]:
    """Return the names of new models; ``all`` are those on this machine."""
    if targets == "all":
        return backbones_here(source)
    names = list(dict.fromkeys(backbone_cards.resolve_all(targets)))
    if source in names:
        raise CompatbenchError(
            f"'{source}' is the old model; name other models as new ones: --target NAME"
        )
    return names


def _check_labels(labels: int, own: OwnImages) -> None:
    """Raise CompatbenchError if no class has so many training images."""
    most = min(load_task(half).max_shots for half in own.halves)
    if labels <= most:
        return
    where = "each half" if len(own.halves) > 1 else "the training split"
    fix = "add images"
    if own.part == "part":
        where = "the smaller part"
        fix = "make the card again with 'new-task --test-share 0.5 --replace'"
    raise CompatbenchError(
        f"{labels} labels per class: the largest class of '{own.task.name}' has "
        f"{count(most, 'image')} in {where}; give at most {most}, or {fix}"
    )


def _choose_methods(methods: Names) -> list[str]:
    """Return the methods to train."""
    if methods == "all":
        return list(CHEAP_METHODS)
    return builtin_methods().select(join_names(methods))


def _fit(
    request: OwnRequest,
    own: OwnImages,
    methods: Sequence[str],
    upgrades: Sequence[tuple[str, ...]],
    shots: int,
    transfers: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> CrossFit:
    return cross_fit(
        own.halves,
        own.tested,
        methods,
        upgrades,
        shots,
        suite=read_suite(own.task.name, upgrades[0][0]),
        out=request.out,
        device=request.device,
        progress=request.progress,
        transfers=transfers,
        settings=settings,
    )


def _describe_fits(by_default: bool, methods: Sequence[str], shots: int, own: OwnImages) -> str:
    """Return what was trained, and on which images, in a sentence."""
    who = f"{', '.join(methods)} trained"
    if by_default:
        cheap = (
            "three cheap methods (they gained in the mini suite when the embedding space was kept)"
        )
        who = f"No module given: {', '.join(methods)}, {cheap}, trained"
    if methods == ["Retrained modules"]:
        who = "Retrained modules learned"
    images = f"up to {count(shots, 'image')} per class"
    if len(own.halves) > 1:
        where = f"of one {own.part} and tested on the other"
        return f"{who} on {images} {where}, {len(SEEDS)} seeds each."
    return f"{who} on {images} of the training split, {len(SEEDS)} seeds."


def _describe_settings(
    names: Mapping[str, str],
    modules: Mapping[str, Module],
    settings: Mapping[str, Mapping[str, Any]],
    suite: str,
) -> str:
    """Return with which settings modules were retrained, in sentences."""
    of_suite = f"those of suite '{suite}'"
    if not any(settings.values()):
        return f"Their settings were {of_suite}."
    described = []
    for method, name in names.items():
        own = settings.get(method, {})
        sentence = f"The settings of {name} were those in its file"
        if not own:
            sentence = f"The settings of {name} were {of_suite}"
        elif modules[name].about.get("imported") is not None:
            shown = []
            for key, value in own.items():
                shown.append(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
            listed = ", ".join(shown)
            sentence += f" ({listed}), and otherwise {of_suite}"
        described.append(f"{sentence}.")
    return " ".join(described)


@contextmanager
def _show_steps(enabled: bool, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar on a terminal's stream of errors. Each call of the yielded function is a step."""
    console = SafeConsole(highlight=False, stderr=True)
    shown = enabled and can_show_bar(console)
    with Progress(console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("", total=total)

        def step(what: str) -> None:
            bar.update(task, description=what)
            bar.advance(task)

        yield step


def _evaluate_modules(
    request: OwnRequest,
    modules: Mapping[str, Module],
    targets: Sequence[str],
    tested: Task,
    memory: Memory,
) -> list[tuple[str, Evaluation]]:
    """Return the evaluations of modules on all targets, each with the name of its module."""
    evaluations = []
    with _show_steps(request.progress, len(modules) * len(targets)) as step:
        for target in targets:
            for name, module in modules.items():
                step(f"{name} on {target}")
                for transfer in list_transfers(str(module.about["method"]), request.methods):
                    evaluation = memory.evaluate(module, target, tested, transfer)
                    evaluations.append((name, evaluation))
            if target == targets[0]:  # the old model is the same for every target
                check_modules(evaluations)
    return evaluations


def list_transfers(method: str, methods: Names) -> list[str]:
    """Return the transfers by which modules of a method are measured; ``methods`` may define it."""
    if methods != "all":
        builtin_methods().select(join_names(methods))
    return [transfer for transfer in (COPIED, "words") if serves(transfer, method)]


def _collect_trained(
    trained: CrossFit, names: Mapping[str, str], source: str, target: str
) -> list[Answered]:
    """Return the options of modules that were trained on the old model, in the order of names."""
    order = list(names)
    options = []
    for method, transfer in sorted(trained.options(), key=lambda option: order.index(option[0])):
        answers = trained.right.get((method, transfer, target))
        reason = trained.refused.get((method, transfer, target), "")
        if answers is None and not reason:
            continue
        old = trained.right.get((method, COPIED, source))
        changed = [trained.changed.get((method, transfer, target))]
        changed.append(trained.changed.get((method, COPIED, source)))
        known = [share for share in changed if share is not None]
        options.append(Answered(method, transfer, answers, reason, old, max(known, default=None)))
    return options


def _collect_retrained(
    retrained: CrossFit, names: Mapping[str, str], target: str, labels: int | None
) -> list[Answered]:
    """Return the options of modules that were retrained on the new model."""
    options = []
    for method, _ in retrained.options():
        answers = retrained.right.get((method, COPIED, target))
        if answers is not None:
            changed = retrained.changed.get((method, COPIED, target))
            name = names[method]
            options.append(Answered(name, f"retrained+{labels}", answers, changed=changed))
    return options
