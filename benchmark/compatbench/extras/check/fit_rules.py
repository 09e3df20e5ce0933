"""The rules of a method's card and settings, of its fit, and of the module that it gives."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from unittest.mock import patch

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from compatbench.data.labels import Need
from compatbench.errors import NotTransferable
from compatbench.extras.check.file_watch import WATCH
from compatbench.extras.check.method_under_test import (
    FEW_STEPS,
    LABELS,
    MOST_SECONDS,
    MethodUnderTest,
    relabel,
    require_logits,
)
from compatbench.extras.check.outcome import BrokenRule, SkippedRule, quoted, require
from compatbench.method import Backbone, FewShotData, Labels, load_module
from compatbench.method.identity import class_file
from compatbench.method.mistakes import explain, find_line, is_contributed

MOST_BYTES = 100e6  # of a module
CHANGEABLE = (list, dict, set, Tensor, np.ndarray)


def _own_values(cls: type) -> Iterator[tuple[str, object]]:
    """Yield what a class and its bases hold by name, without those of the harness."""
    for base in filter(is_contributed, cls.__mro__):
        yield from vars(base).items()


def _describe_containers(cls: type) -> dict[str, str]:
    """Return the content of the containers of a class and of its bases, by name."""
    containers = {}
    for name, value in _own_values(cls):
        if isinstance(value, CHANGEABLE):
            containers[name] = repr(value)
    return containers


def lint(tested: MethodUnderTest) -> None:
    """The linter ruff finds no mistake in the method's file."""
    folders = [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    ruff = shutil.which("ruff", path=os.pathsep.join(folders))
    if ruff is None:
        raise SkippedRule("ruff is not installed; install it with pip install ruff")
    # The same rules everywhere, whatever this version and this folder would choose.
    options = ["--isolated", "--no-cache", "--select", "E9,F,B", "--output-format", "concise"]
    file = class_file(tested.cls)
    found = subprocess.run(
        [ruff, "check", "--quiet", *options, file.name],
        cwd=file.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = (found.stdout or found.stderr).strip().splitlines()
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    require(found.returncode == 0, f"{''.join(lines[:1])}{more}")


def check_card(tested: MethodUnderTest) -> None:
    """Require that the card says what the method is; a method that learns acts somewhere."""
    facts = tested.card
    for name in ("name", "title", "paper", "summary"):
        require(getattr(facts, name), f"the card's '{name}' is empty")
    require(len(facts.summary.splitlines()) == 1, "the card's 'summary' is longer than one line")
    acts = facts.depth != "none"
    right = acts == (facts.learns or "stream" in facts.needs)
    require(right, f"inserts={facts.inserts!r} and learns={facts.learns} contradict")
    named = "teacher" in tested.cls.Config.model_fields
    require(named or "teacher" not in facts.needs, "no setting 'teacher' names the teacher")


def settings(tested: MethodUnderTest) -> None:
    """Settings are immutable, survive JSON, and an unknown one is refused."""
    config = tested.cls.Config
    for name, value in config():
        inner = value if isinstance(value, tuple) else (value,)
        why = f"setting '{name}' holds a function, which no file of results can hold"
        line = find_line(config)
        require(not any(map(callable, inner)), f"{why}; make it a name or a number ({line})")
    same = config.model_validate(config().model_dump(mode="json")) == config()
    require(same, "Config() is not the same after it was written as JSON and read again")
    with suppress(ValidationError):
        config.model_validate({"no_such_setting": 1})
        raise BrokenRule("an unknown setting is accepted; keep extra='forbid'")
    require(config.model_config.get("frozen"), "settings can be changed; keep frozen=True")
    for name, value in config():
        kind = type(value).__name__
        why = f"setting '{name}' is a {kind}, which code can change; make it a tuple or a number"
        require(not isinstance(value, CHANGEABLE), why + f" ({find_line(config)})")
    for name, function in _own_values(tested.cls):
        if isinstance(function, FunctionType):
            defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
            why = f"a default of '{name}' is kept from call to call; make it None"
            changeable = any(isinstance(value, CHANGEABLE) for value in defaults)
            require(not changeable, f"{why} ({find_line(function)})")


def fit(tested: MethodUnderTest) -> str:
    """A fit on a few shots gives a module of finite numbers, of at most 100 MB."""
    try:
        module = tested.fitted
    except Exception as error:
        raise BrokenRule(explain(error) + _name_missing_need(tested)) from None
    require(
        module.bytes <= MOST_BYTES,
        f"the module has {module.bytes / 1e6:,.0f} MB on a tiny model, more than 100 MB; store "
        "what was learned, and derive the rest in attach",
    )
    for name, tensor in module.tensors.items():
        require(tensor.isfinite().all(), f"'{name}' has numbers that are not finite")
        right = tensor.dtype == torch.float32 or name not in module.trained
        require(right, f"'{name}' is {tensor.dtype}; what is trained is float32")
    return f"{module.parameters:,} parameters, {module.bytes:,} bytes"


def attach(tested: MethodUnderTest) -> None:
    """A new instance attaches the module to its source, and classifies at once and in silence."""
    try:
        seconds = tested.first_seconds
    except Exception as error:
        raise BrokenRule(explain(error) + _name_missing_need(tested)) from None
    require(
        seconds < MOST_SECONDS,
        f"the classifier takes {seconds:.0f} s for seven images on a tiny model; what is the same "
        f"for every image belongs before it, in attach ({find_line(tested.cls.attach)})",
    )
    printed = tested.printed
    require(not printed, f"{''.join(printed[:1])} is printed; leave it out")


def _name_missing_need(tested: MethodUnderTest) -> str:
    """Return what to add to the card if a method that fails only lacks an input; else ''."""
    candidates: tuple[Need, ...] = ("unlabelled", "teacher", "descriptions")
    for need in candidates:
        if need in tested.needs:
            continue
        other = MethodUnderTest(tested.cls)
        other.needs.add(need)
        with suppress(Exception, SystemExit, BrokenRule):
            _ = other.first_seconds
            return f"; with '{need}' it works: add it to 'needs' on the card"
    return ""


def same_seed(tested: MethodUnderTest) -> None:
    """The same data and seed fit the same module, bit for bit, whatever was fitted before."""
    first = tested.fitted
    before = _describe_containers(tested.cls)
    _ = tested.fitted_otherwise  # a fit that might leave something behind
    _disturb_randomness()
    again = tested.fit()
    after = _describe_containers(tested.cls)
    moved = [name for name, value in after.items() if before.get(name) != value]
    why = f"a fit changes {quoted(moved)} of its class, which the next one sees"
    require(not moved, f"{why}; keep it in the module ({find_line(tested.cls)})")
    changed = []
    for name, tensor in first.tensors.items():
        if name not in again.tensors or not torch.equal(tensor, again[name]):
            changed.append(name)
    why = "all randomness must come from `rng`, and nothing from earlier fits"
    require(again.fingerprint == first.fingerprint, f"{quoted(changed)} differ; {why}")


def other_seed(tested: MethodUnderTest) -> None:
    """Another draw of shots and another seed fit another module, if the method learns."""
    same = tested.fitted_otherwise.fingerprint == tested.fitted.fingerprint
    if tested.card.learns:
        require(not same, "other images and another seed gave the same module")
    else:
        require(same, "the card says learns=False, but other images gave another module")


def needs(tested: MethodUnderTest) -> str:
    """Whatever the card needs makes a difference, and nothing else is loaded."""

    def refuse(*_: object, **__: object) -> None:
        raise BrokenRule("it loads a backbone or a task itself; it is given what its card needs")

    complaints = WATCH.complaints(tested.cls)
    require(not complaints, "".join(complaints[:1]))

    with (
        patch("compatbench.backbone.backbone.read_backbone", refuse),
        patch("compatbench.data.task._load", refuse),
    ):
        first = _answer(tested, tested.draw())
    changed: dict[str, Callable[[], Tensor]] = {
        "descriptions": lambda: _answer(tested, tested.draw(OTHER_TEXTS), OTHER_TEXTS),
        "unlabelled": lambda: _answer(tested, tested.draw(unlabelled=3)),
        "teacher": lambda: _answer(tested, tested.draw(teacher="every size")),
        "stream": lambda: _answer(tested, tested.draw(), first=4),
    }
    # Words make a difference on another backbone alone.
    for need in sorted(tested.card.needs & changed.keys()):
        same = torch.equal(changed[need]()[-1], first[-1])
        require(not same, f"the card needs '{need}', but another makes no difference; leave it out")
    return ", ".join(sorted(tested.card.needs))


OTHER_TEXTS = replace(LABELS, descriptions=tuple((f"{n} x", f"{n} y") for n in LABELS.names))


def _answer(
    tested: MethodUnderTest, data: FewShotData, labels: Labels = LABELS, first: int = 0
) -> Tensor:
    """Fit again. Return logits on the source for the unseen images from the ``first`` on."""
    classify = tested.attach(tested.source, tested.fit(data), labels)
    with torch.no_grad():
        return classify(tested.inputs(tested.source)[first:])


def global_randomness(tested: MethodUnderTest) -> None:
    """A fit leaves the random state of Python, numpy and torch as it was."""
    before = _disturb_randomness()
    tested.fit()
    require(_random_states() == before, "a global generator was used or seeded; draw from `rng`")


def backbone_unchanged(tested: MethodUnderTest) -> None:
    """Fitting, attaching and classifying leave both backbones as they were, bit for bit."""
    module = tested.fit()
    for backbone in (tested.source, tested.target):
        with suppress(NotTransferable):
            tested.logits(backbone, module)
    roles = {"source": tested.source, "target": tested.target}
    teacher = tested.draw().teacher
    if teacher is not None:
        roles["teacher"] = teacher.backbone
    for role, backbone in roles.items():
        changed = tested.models.changed(backbone)
        require(not changed, f"{quoted(changed)} of the {role} backbone changed")
        for parameter in backbone.model.parameters():
            left = parameter.requires_grad or parameter.grad is not None
            require(not left, f"the {role} backbone was left with gradients")


def data_unchanged(tested: MethodUnderTest) -> None:
    """A fit leaves its data as they were."""
    data = tested.draw()
    before = pickle.dumps((data.train, data.val))
    tested.fit(data)
    same = pickle.dumps((data.train, data.val)) == before
    require(same, "the few-shot features or targets were written to")


FEW: dict[str, int | list[int]] = {
    "two shots": 2,
    "one shot": 1,
    "a class with fewer images": [3, 1, 3, 3, 3],
    "a class without images": [3, 0, 2, 3, 1],
}


def few_shots(tested: MethodUnderTest) -> None:
    """Two shots, one shot, and classes with fewer images than shots, or none, are served."""
    for what, shots in FEW.items():
        _expect_served(tested, what, tested.draw(shots=shots))


def odd_draws(tested: MethodUnderTest) -> None:
    """No validation images, two and forty classes, and more images than a batch are served."""
    _expect_served(tested, "no validation images", tested.draw(val=0))
    _expect_served(tested, "two classes", tested.draw(relabel(("dog", "red apple"))))
    many = relabel([f"thing {number}" for number in range(40)])
    _expect_served(tested, "forty classes", tested.draw(many, shots=2, val=1))
    recipe = tested.cls.Config().model_dump().get("recipe")
    size = recipe.get("batch_size", 32) if isinstance(recipe, dict) else 32
    shots = max(4, min(size // len(LABELS) + 1, 30))
    _expect_served(tested, f"{shots} shots", tested.draw(shots=shots))


def _expect_served(tested: MethodUnderTest, what: str, data: FewShotData) -> None:
    """Raise BrokenRule unless a fit on a draw gives logits for its classes."""
    try:
        module = tested.fit(data, steps=FEW_STEPS)
        logits = tested.logits(tested.source, module, data.labels)
    except Exception as error:
        raise BrokenRule(f"{what}: {explain(error)}") from None
    require_logits(logits, f"{what}: logits", data.labels)


def _disturb_randomness() -> bytes:
    """Give Python, numpy and torch other random states than before. Return the new states."""
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    return _random_states()


def _random_states() -> bytes:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()
    return pickle.dumps(states)


def round_trip(tested: MethodUnderTest) -> None:
    """A module that was saved and loaded gives the same logits, bit for bit."""
    # In a process of its own this is in its own folder; it may look into no other.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.safetensors"
        tested.fitted.save(path, {"method": tested.card.name})
        loaded = load_module(path)
    same = loaded.fingerprint == tested.fitted.fingerprint
    require(same, "the module's tensors are not the same after saving and loading")
    same = torch.equal(tested.logits(tested.source, loaded), tested.logits(tested.source))
    require(same, "the loaded module gives other logits than the fitted one")


def source_classifier(tested: MethodUnderTest) -> None:
    """The module attached to the source by a new instance is the classifier that was fitted."""
    method = tested.build()
    module = method.fit(tested.source, tested.draw(), torch.Generator().manual_seed(1))
    with torch.no_grad():
        fitted = method.attach(module.detach(), tested.source, LABELS)
        expected = fitted(tested.inputs(tested.source))
    logits = tested.logits(tested.source, module)
    gap = f"logits differ by up to {float((logits - expected).abs().max()):.2g}"
    require(torch.equal(logits, expected), f"{gap}; keep all that attach needs in the module")


def module_unchanged(tested: MethodUnderTest) -> None:
    """Attaching and classifying leave the module as it was, bit for bit, without gradients."""
    module = tested.module
    before = module.fingerprint
    for backbone in (tested.target, tested.source):
        with suppress(NotTransferable), torch.no_grad():
            tested.build().attach(module, backbone, LABELS)(tested.inputs(backbone))
    same = module.fingerprint == before
    require(same, "attach or the classifier writes to the module's tensors")
    asks = any(tensor.requires_grad for tensor in module.tensors.values())
    require(not asks, "attach asks for gradients of the module's tensors")


def derived_not_stored(tested: MethodUnderTest) -> None:
    """Nothing that a backbone can derive from the class names is stored in the module."""
    derived = list(_derived_rows(tested.source))
    scale = tested.source.logit_scale
    for name, tensor in tested.fitted.tensors.items():
        if not tensor.is_floating_point():
            continue
        same = tensor.numel() == 1 and abs(float(tensor) - scale) < 1e-4
        require(not same, f"'{name}' is the source's logit scale; ask the backbone for it")
        # What is trained may begin at a derived value, but does not stay there exactly.
        exact = name in tested.fitted.trained
        matrices = [tensor, tensor.mT] if tensor.ndim > 1 else [tensor[None]]
        for matrix in matrices:
            for what, rows in derived:
                same = _holds_row(matrix, rows, exact)
                require(not same, f"'{name}' holds {what} of the source; derive it in attach")


def _holds_row(matrix: Tensor, rows: Tensor, exact: bool) -> bool:
    """Return True if some row of a matrix ``[..., d]`` equals, or nearly equals, one of rows."""
    if matrix.shape[-1] != rows.shape[-1]:
        return False
    rtol, atol = (0.0, 0.0) if exact else (1e-4, 1e-6)
    each = matrix.reshape(-1, 1, matrix.shape[-1])
    return bool(torch.isclose(each, rows, rtol=rtol, atol=atol).all(-1).any())


def other_process(tested: MethodUnderTest) -> None:
    """In a new process, with other hashes, time zone and home, all is the same, bit for bit."""
    if tested.describe_elsewhere is None:
        raise SkippedRule("there is no other process here; 'compatbench check' starts one")
    here = tested.describe_fit()
    there = tested.describe_elsewhere(tested.card.name)
    for what, fingerprint in here.items():
        differs = f"other logits on the {what}"
        if what == "module":
            differs = "another module"
        require(
            there.get(what) == fingerprint,
            f"a new process gives {differs}; neither the environment, the hour, hash(), id(), nor "
            "what was fitted or classified before may decide anything",
        )


def _derived_rows(backbone: Backbone) -> Iterator[tuple[str, Tensor]]:
    """Yield what the source derives from class names and templates, as rows, each with its name."""
    for template in dict.fromkeys((*LABELS.templates, LABELS.teacher_template)):
        yield "text features", backbone.text_features(LABELS.fill(template))
        yield "zero-shot weights", backbone.zero_shot(LABELS, template)
    yield "zero-shot weights", backbone.zero_shot_ensemble(LABELS)
    yield "features of descriptions", torch.cat(backbone.describe(LABELS))
    names, lengths = backbone.name_tokens(LABELS)
    embeddings = torch.cat([row[:length] for row, length in zip(names, lengths, strict=True)])
    yield "class-name embeddings", embeddings
    ends = [*backbone.text_tokens.start, *backbone.text_tokens.end]
    yield "start- and end-of-text embeddings", backbone.embed(torch.tensor(ends))
