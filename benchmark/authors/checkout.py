"""Runs code from a checkout where it lies: nothing of it is copied or edited.

What the trainers need around them has stand-ins: the data of Dassl, packages that only log or
download, the download of CLIP's weights, a GPU, and every cast to half or single precision.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import packaging.version
import pytest
import torch
from torch import Tensor, nn
from whole_fits import OurFit, Problem

from compatbench.method.trained import Recipe

DASSL = "KaiyangZhou/Dassl.pytorch"
# Of Dassl, only its engine, optimisers and schedules are run.
ABSENT = (
    "dassl.data", "dassl.evaluation", "dassl.modeling", "dassl.engine.da", "dassl.engine.dg",
    "dassl.engine.ssl", "torch.utils.tensorboard", "yacs", "gdown", "wilds", "tabulate",
)  # fmt: skip
NARROW = (torch.float16, torch.float32)


class _StandIn(ModuleType):
    """A module that has whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return mock.MagicMock(name=name)


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
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

    def __init__(self, folder: str, repository: str, scratch: Path) -> None:
        self.folder = Path(folder)
        self.repository = repository
        self.scratch = scratch
        self._saved: dict[str, Tensor] | None = None

    def path(self, place: str) -> Path:
        """A folder in the folder of checkouts; the test is skipped where it is not there."""
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
        """Yields a function that imports a module of the repository, in double precision.

        Args:
            problem: its weights are those that ``clip._download`` finds.
            inside: the folder of the repository from which it is run.
            beside: other folders that hold modules, such as ``KaiyangZhou/Dassl.pytorch``.
            absent: packages to stand in for, beside ``ABSENT``.
        """
        paths = [self.path(one) for one in (f"{self.repository}/{inside}", *beside)]
        tops = {child.stem for path in paths for child in path.iterdir()}
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # of code for older libraries
            stack.enter_context(mock.patch.dict(sys.modules))
            for name in [*sys.modules]:
                if name.partition(".")[0] in tops | {"dassl", "clip"}:
                    del sys.modules[name]
            stack.enter_context(mock.patch.object(sys, "path", [*map(str, paths), *sys.path]))
            finder = _StandIns([*ABSENT, *absent])
            stack.enter_context(mock.patch.object(sys, "meta_path", [finder, *sys.meta_path]))
            stack.enter_context(double_precision())
            sys.modules["pkg_resources"] = ModuleType("pkg_resources")  # gone from setuptools
            vars(sys.modules["pkg_resources"])["packaging"] = packaging

            def load(name: str) -> ModuleType:
                module = importlib.import_module(name)
                if problem is not None:
                    self._give_weights(problem)
                return module

            yield load

    def _give_weights(self, problem: Problem) -> None:
        """``clip._download`` is the path of a file with the problem's weights."""
        path = self.scratch / "clip.pt"
        if self._saved is not problem.weights:
            torch.save(problem.weights, path)
            self._saved = problem.weights
        for module in [*sys.modules.values()]:
            if {"_download", "_MODELS"} <= vars(module).keys():
                module._download = lambda *_, **__: str(path)  # type: ignore[attr-defined]

    @contextmanager
    def trainer(
        self,
        name: str,
        problem: Problem,
        ours: OurFit,
        settings: Mapping[str, Any],
        *,
        inside: str = "",
        dassl: str = DASSL,
        beside: Sequence[str] = (),
        recipe: Recipe | None = None,
        absent: Sequence[str] = (),
        **data: Any,
    ) -> Iterator[Any]:
        """Yields a Dassl trainer that is built, and not yet trained; ``train()`` trains it.

        Args:
            name: of module and class, such as ``trainers.coop:CoOp``.
            ours: the fit whose batches it will see, and whose recipe it follows.
            settings: of the method, under Dassl's names: ``{"TRAINER.COOP.N_CTX": 4}``.
            dassl: where Dassl is, if the authors changed it.
            inside, beside, absent: as for ``open``.
            data: attributes of Dassl's data manager beside loader and dataset.
        """
        with self.open(problem, inside=inside, beside=[dassl, *beside], absent=absent) as load:
            engine = load("dassl.engine.trainer")
            manager = SimpleNamespace(
                dataset=SimpleNamespace(classnames=list(problem.labels.names)),
                train_loader_x=Loader(ours.batches),
                num_classes=len(problem.labels),
                lab2cname=dict(enumerate(problem.labels.names)),
                **dict.fromkeys(("train_loader_u", "val_loader", "test_loader")),
                num_source_domains=1,
            )
            vars(manager).update(data)
            engine.DataManager = lambda cfg: manager
            for hook in ("before_train", "after_train", "after_epoch"):  # files and tests
                setattr(engine.SimpleTrainer, hook, lambda self: None)
            module, _, cls = name.partition(":")
            defaults = dassl_settings(problem, recipe or ours.recipe, ours.epochs)
            config = tree({**defaults, **settings})
            yield getattr(load(module), cls)(config)

    def train(
        self,
        name: str,
        problem: Problem,
        ours: OurFit,
        settings: Mapping[str, Any],
        names: Mapping[str, str],
        **more: Any,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Trains a Dassl trainer from our start; its parameters by our names, and its logits.

        Args:
            names: of the trainer's parameters, by ours: ``{"context": "prompt_learner.ctx"}``.
            more: keyword arguments of ``trainer``.
        """
        assert ours.start is not None
        with self.trainer(name, problem, ours, settings, **more) as trainer:
            parameters = dict(trainer.model.named_parameters())
            for mine, theirs in names.items():
                parameters[theirs].data.copy_(ours.start[mine])
            trainer.train()
            logits = trainer.model.eval()(problem.queries)
        return {mine: parameters[theirs] for mine, theirs in names.items()}, logits


class Loader:
    """Dassl's training loader: each iteration gives the next epoch's batches."""

    def __init__(self, epochs: Sequence[Sequence[Any]]) -> None:
        self.epochs = iter(epochs)
        self.steps = len(epochs[0])
        self.dataset = range(sum(len(batch.targets) for batch in epochs[0]))

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in next(self.epochs):
            yield {"img": batch.images, "img2": batch.other_images, "label": batch.targets}


def dassl_settings(problem: Problem, recipe: Recipe, epochs: int) -> dict[str, Any]:
    """Our recipe in Dassl's words, and what every trainer asks for."""
    optim = dict(NAME=recipe.optimizer, LR=recipe.lr, WEIGHT_DECAY=recipe.weight_decay)
    optim |= dict(MOMENTUM=recipe.momentum, SGD_DAMPNING=0, SGD_NESTEROV=False, RMSPROP_ALPHA=0.99)
    optim |= dict(ADAM_BETA1=recipe.betas[0], ADAM_BETA2=recipe.betas[1])
    optim |= dict(STAGED_LR=False, NEW_LAYERS=(), BASE_LR_MULT=0.1, STEPSIZE=(-1,), GAMMA=0.1)
    optim |= dict(LR_SCHEDULER="cosine", MAX_EPOCH=epochs, WARMUP_EPOCH=recipe.warmup_epochs)
    optim |= dict(WARMUP_TYPE="constant", WARMUP_CONS_LR=recipe.warmup_lr, WARMUP_RECOUNT=True)
    size = problem.images.shape[-1]
    return {
        **{f"OPTIM.{name}": value for name, value in optim.items()},
        "MODEL.BACKBONE.NAME": "ViT-B/16",
        "MODEL.INIT_WEIGHTS": "",
        "INPUT.SIZE": (size, size),
        "TRAIN.PRINT_FREQ": 10**9,
        "DATALOADER.TRAIN_X.BATCH_SIZE": recipe.batch_size,
        "DATASET.NAME": "Caltech101",
        "DATASET.SUBSAMPLE_CLASSES": "all",
        "OUTPUT_DIR": "",
        "USE_CUDA": False,
        "VERBOSE": False,
    }


def under(section: str, **settings: Any) -> dict[str, Any]:
    """Settings of a section of Dassl's configuration."""
    return {f"TRAINER.{section}.{name}": value for name, value in settings.items()}


def tree(settings: Mapping[str, Any]) -> SimpleNamespace:
    """Settings by dotted names as nested attributes."""
    root = SimpleNamespace()
    for name, value in settings.items():
        *folders, last = name.split(".")
        place = root
        for folder in folders:
            place = vars(place).setdefault(folder, SimpleNamespace())
        setattr(place, last, value)
    return root


@contextmanager
def double_precision() -> Iterator[None]:
    """No GPU, and float64 wherever code says half or single precision."""
    cast, move, move_module = Tensor.type, Tensor.to, nn.Module.to

    def widen(value: Any) -> Any:
        if value in NARROW if isinstance(value, torch.dtype) else False:
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
        # Dassl gives the argument `verbose`, which torch no longer has.
        old = torch.optim.lr_scheduler._LRScheduler
        stack.enter_context(mock.patch.object(old, "__init__", schedule))
        yield
