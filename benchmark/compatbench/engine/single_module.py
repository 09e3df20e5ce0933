"""One module outside a run: fitted, imported, or read from a file that describes its fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from compatbench.backbone.device import resolve_device
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import COPIED, TrainingCard, backbone_cards, suite_cards, task_cards
from compatbench.data.cards.shots import Shots
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine.method_settings import read_settings
from compatbench.engine.plan import plan_cells
from compatbench.engine.store import RunStore, fit_description
from compatbench.engine.worker import Worker, build_method
from compatbench.errors import CompatbenchError
from compatbench.method import Method, Module, load_module
from compatbench.method.checkpoint_reader import is_archive
from compatbench.method.convert import import_checkpoint
from compatbench.method.registry import builtin_methods


class Fitted(BaseModel):
    """What a module's file says of its fit; the rest is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: str
    config: dict[str, Any]
    task: str
    source: str
    shots: Shots | None = None  # where it is known, of a module that was imported
    seed: int | None = None
    classes: tuple[int, ...] | None = None  # labels of those that it knows, if not all
    imported: dict[str, Any] | None = None  # from which file, and how
    ported: dict[str, Any] | None = None  # from which source, and with which transfer


def fit_module(
    method: str,
    task: str,
    source: str,
    shots: int,
    seed: int,
    config: dict[str, Any],
    views: int,
    device: str,
) -> Module:
    """Fits one module, as ``compatbench.fit`` says; its ``about`` is as in the modules of a run."""
    registry = builtin_methods()
    task, source = task_cards.resolve(task), backbone_cards.resolve(source)
    names = registry.select(method)
    if len(names) != 1:
        raise CompatbenchError(f"fit takes one method; '{method}' means {', '.join(names)}")
    changes = {
        "name": "fit",
        "upgrades": ((source,),),
        "tasks": (task,),
        "variants": (),
        "shots": (shots,),
        "seeds": (seed,),
        "methods": {names[0]: config},
        "training": read_settings(TrainingCard, {"views": views}, "fit"),
    }
    suite = suite_cards.read("mini").model_copy(update=changes)
    [cell] = plan_cells(suite, registry, names, shots=[shots], transfers=[COPIED])
    cache = FeatureCache(default_cache_folder())
    worker = Worker(RunStore(Path("runs")), cache, resolve_device(device))
    record, module = worker.fit(cell, build_method(cell))
    return Module(module.trained, module.stored, fit_description(record))


def import_for(given: Module | Path, test_set: str | None, source: str, *how: Any) -> Module:
    """A checkpoint of other code, imported for a test set; ``how`` it is, as for ``import_module``.

    The test set is the task that it was trained for, or a variant of it.
    """
    if not isinstance(given, Path) or test_set is None:
        lacking = "a task, too" if isinstance(given, Path) else "the file of one, not a module"
        raise CompatbenchError(
            f"a source is for a checkpoint of other code: give {lacking}, or leave the source out"
        )
    kind, settings, classes, device = how
    task = task_cards.read(test_set).parent or test_set
    place = resolve_device(device)
    return import_checkpoint(kind, given, task, source, settings or {}, classes, place)


def read_module(given: Module | Path) -> Module:
    """A module, or that of a file."""
    other = "a checkpoint of other code needs --source and --task, see 'compatbench import --help'"
    if isinstance(given, Path) and given.is_dir():
        raise CompatbenchError(
            f"{given} is a folder; give a module's file, *.safetensors, in it; {other}"
        )
    if isinstance(given, Path) and is_archive(given):
        raise CompatbenchError(f"{given} is not a module of compatbench; {other}")
    return load_module(given) if isinstance(given, Path) else given


def read_fitted(given: Module | Path) -> tuple[Module, Fitted]:
    """A module, or that of a file, and what it says of its fit."""
    module = read_module(given)
    try:
        return module, Fitted.model_validate(module.about)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise CompatbenchError(
            f"{given} does not say how it was fitted ('{field}'); give a module that 'run' wrote"
        ) from None


def build_method_of(fitted: Fitted, methods: str | None, path: Path) -> Method:
    """The method of a module in ``path``, which may be in the file ``methods``."""
    registry, name = builtin_methods(), fitted.method
    if methods is not None:
        registry.select(methods)
    if name not in registry.classes and name not in registry.broken:
        raise CompatbenchError(
            f"{path} is a module of the method '{name}', which is not here; give its file: "
            f"--methods ./{name}.py"
        )
    cls = registry.get(name)
    return cls(read_settings(cls.Config, fitted.config, f"'{name}', with which {path} was fitted"))
