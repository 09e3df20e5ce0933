"""Run code from a checkout in its place: none of it is copied or edited.

These parts around the trainers are replaced: the data of Dassl, packages that only log or download,
the download of CLIP's weights, a GPU, and every cast to half or single precision.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import packaging.version
import pytest
import torch
from configurations import DASSL, Published, read_published
from torch import Tensor, nn
from whole_fits import OurFit, Problem, compare

# Packages that are replaced. Of Dassl, only the engine, optimisers and schedules are run.
ABSENT = (
    "dassl.data", "dassl.evaluation", "dassl.modeling", "dassl.engine.da", "dassl.engine.dg",
    "dassl.engine.ssl", "torch.utils.tensorboard", "gdown", "wilds", "tabulate", "plotnine",
)  # fmt: skip
NARROW = (torch.float16, torch.float32)
SMALL = {
    "INPUT.SIZE": (24, 24),
    "TRAIN.PRINT_FREQ": 10**9,
    "OUTPUT_DIR": "",
    "USE_CUDA": False,
    "VERBOSE": False,
}


class _StandIn(ModuleType):
    """A module that has every attribute."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return mock.MagicMock(name=name)


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """A finder of stand-ins for packages of these names, and for everything in them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if any(name == one or name.startswith(one + ".") for one in self.names):
            return importlib.util.spec_from_loader(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class Checkout:
    """The checkout of one repository in a folder ``FOLDER/OWNER/NAME``."""

    def __init__(
        self, folder: str, repository: str, scratch: Path, record: Callable[[str, object], None]
    ) -> None:
        self.folder = Path(folder)
        self.repository = repository
        self.scratch = scratch
        self.compare = partial(compare, record, repository)
        self._saved: dict[str, Tensor] | None = None

    def path(self, place: str) -> Path:
        """Return a folder in the folder of checkouts; skip the test if it is not there."""
        if not (self.folder / place).is_dir():
            pytest.skip(f"no checkout of {place}")
        return self.folder / place

    @contextmanager
    def open(
        self,
        problem: Problem | None = None,
        *,
        inside: str = "",
        beside: Sequence[str] = (),
        absent: Sequence[str] = (),
    ) -> Iterator[Callable[[str], ModuleType]]:
        """Yield a function that imports a module of the repository, in double precision.

        Args:
            problem: ``clip._download`` returns a file with its weights.
            inside: the folder of the repository from which the code is run.
            beside: other folders with modules, such as ``KaiyangZhou/Dassl.pytorch``.
            absent: packages to replace, besides ``ABSENT``.
        """
        paths = [self.path(one) for one in (f"{self.repository}/{inside}", *beside)]
        tops = {"dassl", "clip"}  # names that are imported anew
        for path in paths:
            tops.update(child.stem for child in path.iterdir())
        finder = _StandIns([*ABSENT, *absent])
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # the code was written for older libraries
            stack.enter_context(mock.patch.dict(sys.modules))
            for name in [*sys.modules]:
                if name.partition(".")[0] in tops or finder.find_spec(name, None):
                    del sys.modules[name]
            stack.enter_context(mock.patch.object(sys, "path", [*map(str, paths), *sys.path]))
            stack.enter_context(mock.patch.object(sys, "meta_path", [finder, *sys.meta_path]))
            stack.enter_context(double_precision())
            # Setuptools no longer has this module, from which CLIP's code takes ``packaging``.
            sys.modules["pkg_resources"] = ModuleType("pkg_resources")
            vars(sys.modules["pkg_resources"])["packaging"] = packaging

            def load(name: str) -> ModuleType:
                module = importlib.import_module(name)
                if problem is not None:
                    self._give_weights(problem)
                return module

            yield load

    def _give_weights(self, problem: Problem) -> None:
        """Make ``clip._download`` return the path of a file with the problem's weights."""
        path = self.scratch / "clip.pt"
        if self._saved is not problem.weights:
            torch.save(problem.weights, path)
            self._saved = problem.weights
        for module in [*sys.modules.values()]:
            if {"_download", "_MODELS"} <= vars(module).keys():
                module._download = lambda *_, **__: str(path)  # type: ignore[attr-defined]

    def published(
        self, method: str, changes: Mapping[str, Any] = {}, task: str = "caltech101"
    ) -> Published:
        """Return the settings in the authors' files, changed for a small problem.

        Args:
            method: the method.
            changes: more changes by their dotted names: ``{"TRAINER.COOP.N_CTX": 4}``.
            task: the task whose settings are read.
        """
        found = read_published(method, self.folder, task)
        if "TRAINER" in found.tree:
            found.change(SMALL)
            size = found.tree.DATALOADER.TRAIN_X.BATCH_SIZE
            found.change(pace(6, min(size, 8)))
            for section in found.tree.TRAINER.values():
                if "PREC" in getattr(section, "keys", tuple)():
                    section["PREC"] = "fp32"
            if not found.tree.MODEL.BACKBONE.NAME:  # the authors' script gives it
                found.change({"MODEL.BACKBONE.NAME": "ViT-B/16"})
        found.change(changes)
        return found

    @contextmanager
    def trainer(
        self,
        published: Published,
        problem: Problem,
        ours: OurFit,
        *,
        name: str = "",
        inside: str | None = None,
        beside: Sequence[str] = (),
        absent: Sequence[str] = (),
        **data: Any,
    ) -> Iterator[Any]:
        """Yield a Dassl trainer that is built but not trained; ``train()`` trains it.

        Args:
            published: the trainer and its configuration.
            problem: the problem, whose weights the trainer's CLIP has.
            ours: our fit, whose batches the trainer will see.
            name: module and class of another trainer, such as ``trainers.coop:CoOp``.
            inside, beside, absent: as for ``open``.
            data: attributes of Dassl's data manager, besides loader and dataset.
        """
        files = published.files
        if inside is None:
            inside = files.get("folder", "")
        beside = [files.get("dassl", DASSL), *beside]
        if "repository" in files:
            beside.append(files["repository"])
        with self.open(problem, inside=inside, beside=beside, absent=absent) as load:
            engine = load("dassl.engine.trainer")
            manager = SimpleNamespace(
                dataset=SimpleNamespace(classnames=list(problem.labels.names)),
                train_loader_x=Loader(ours.batches) if ours.batches else None,
                num_classes=len(problem.labels),
                lab2cname=dict(enumerate(problem.labels.names)),
                **dict.fromkeys(("train_loader_u", "val_loader", "test_loader")),
                num_source_domains=1,
            )
            vars(manager).update(data)
            engine.DataManager = lambda cfg: manager
            # These hooks write files and run tests.
            for hook in ("before_train", "after_train", "after_epoch"):
                setattr(engine.SimpleTrainer, hook, lambda self: None)
            module, _, cls = (name or files["trainer"]).partition(":")
            yield getattr(load(module), cls)(published.tree)


# The authors' parameters by our names; a list has one for each block.
Parts = dict[str, "Tensor | list[Tensor]"]
Find = Callable[[Any], Parts]  # returns the parameters of a model


def named(**names: str) -> Find:
    """Return a function that finds parameters by their names in the authors' model."""
    return lambda model: {ours: [*attrgetter(name)(model)] for ours, name in names.items()}


def give(parts: Parts, module: Any) -> None:
    """Fill the authors' parameters with ours."""
    for name, part in parts.items():
        for ours, theirs in zip(module[name], part, strict=True):
            theirs.data.copy_(ours)


def take(parts: Parts) -> dict[str, Tensor]:
    """Return the authors' parameters, with those of all blocks in one tensor."""
    return {name: torch.stack([*part]) for name, part in parts.items()}


class Loader:
    """A training loader of Dassl: each iteration has the batches of the next epoch."""

    def __init__(self, epochs: Sequence[Sequence[Any]]) -> None:
        self.epochs = iter(epochs)
        self.steps = len(epochs[0])
        self.dataset = range(sum(len(batch.targets) for batch in epochs[0]))

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in next(self.epochs):
            yield {"img": batch.images, "img2": batch.other_images, "label": batch.targets}


def under(section: str, **settings: Any) -> dict[str, Any]:
    """Return settings of a section of Dassl's configuration, by their dotted names."""
    return {f"TRAINER.{section}.{name}": value for name, value in settings.items()}


def pace(epochs: int, batch_size: int) -> dict[str, int]:
    """Return the settings of Dassl for epochs and batch size."""
    return {"OPTIM.MAX_EPOCH": epochs, "DATALOADER.TRAIN_X.BATCH_SIZE": batch_size}


@contextmanager
def double_precision() -> Iterator[None]:
    """Replace half and single precision by float64, and the GPU by the processor."""
    cast = Tensor.type
    move = Tensor.to
    move_module = nn.Module.to

    def widen(value: Any) -> Any:
        """Return what stands in for an argument of ``to``: a type, a device, or anything else."""
        if isinstance(value, torch.dtype) and value in NARROW:
            return torch.float64
        is_gpu = isinstance(value, (str, torch.device)) and str(value).startswith("cuda")
        return "cpu" if is_gpu else value

    def to(original: Callable[..., Any]) -> Callable[..., Any]:
        def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
            kwargs = {name: widen(value) for name, value in kwargs.items()}
            return original(self, *map(widen, args), **kwargs)

        return changed

    def double(self: Tensor, *_: Any, **__: Any) -> Tensor:
        return move(self, torch.float64)

    def same(self: Any, *_: Any, **__: Any) -> Any:
        return self

    def schedule(self: Any, optimizer: Any, last_epoch: int = -1, verbose: bool = False) -> None:
        torch.optim.lr_scheduler.LRScheduler.__init__(self, optimizer, last_epoch)

    tensor = dict(half=double, float=double, cuda=same, type=to(cast), to=to(move))
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(Tensor, **tensor))
        module = dict(half=same, float=same, cuda=same, to=to(move_module))
        stack.enter_context(mock.patch.multiple(nn.Module, **module))
        stack.enter_context(mock.patch.object(torch.cuda, "is_available", return_value=False))
        # Dassl passes the argument `verbose`, which torch no longer has.
        old = torch.optim.lr_scheduler._LRScheduler
        stack.enter_context(mock.patch.object(old, "__init__", schedule))
        yield
