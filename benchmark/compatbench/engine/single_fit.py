"""One module, fitted outside a run: what ``compatbench.fit`` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import TrainingCard
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.shots import check_draws
from compatbench.engine.cell import Cell, describe_cell
from compatbench.engine.execute.device import resolve_device
from compatbench.engine.keys import cell_key
from compatbench.engine.store import RunStore, fit_description
from compatbench.engine.worker import Worker
from compatbench.errors import CompatbenchError
from compatbench.method import Module
from compatbench.method.identity import method_identity
from compatbench.method.registry import MethodRegistry, builtin_methods


def fit_module(
    method: str,
    task: str,
    source: str,
    shots: int,
    seed: int,
    config: dict[str, Any],
    views: int = 1,
    device: str = "auto",
) -> Module:
    """Fits a method on a source backbone and a few-shot draw of a task.

    Returns:
        The module; its ``about`` says how it was fitted, as the modules of a run do.

    Raises:
        CompatbenchError: an unknown name, a wrong setting, or missing images or weights.
    """
    [shots], [seed] = check_draws([shots], [seed])
    registry = builtin_methods()
    names = registry.select(method)
    if len(names) != 1:
        raise CompatbenchError(f"fit takes one method; '{method}' means {', '.join(names)}")
    cls = registry.get(names[0])
    try:
        settings = cls.Config.model_validate(config)
        training = TrainingCard.model_validate({"views": views})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CompatbenchError(f"setting '{field}' of '{names[0]}': {first['msg']}") from None
    values = settings.model_dump(mode="json")
    key = cell_key(
        method_identity(cls),
        values,
        source,
        task,
        shots,
        seed,
        training.model_dump(mode="json", exclude={"max_steps"}),
    )
    cell = Cell(
        key=key,
        fit_key=key,
        method=cls.card.name,
        config=values,
        task=task,
        shots=shots,
        seed=seed,
        backbones=(source,),
        test_sets=(task,),
        training=training,
        plugin=MethodRegistry.plugin_file(cls),
    )
    cache = FeatureCache(default_cache_folder())
    worker = Worker(RunStore(Path("runs")), cache, resolve_device(device))
    module, seconds = worker.fit(cell, cls(settings))
    record = describe_cell(
        cell,
        status="ok",
        fit_seconds=round(seconds, 4),
        parameters=module.parameters,
        module_bytes=module.bytes,
        module=module.fingerprint,
    )
    return Module(module.trained, module.stored, fit_description(record))
