"""Single modules: fitted, measured, converted and ported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.engine.single_module import Evaluation
    from compatbench.method import Module
    from compatbench.method.convert import Exported


def fit(
    method: str,
    task: str,
    source: str,
    *,
    shots: int = 16,
    seed: int = 1,
    config: Mapping[str, object] | None = None,
    views: int = 1,
    device: str = "auto",
) -> Module:
    """Fits one module; nothing is stored but image features in the cache.

    Args:
        method: a name of ``methods()``, or the path of a method file.
        task, source: names of ``tasks()`` and ``backbones()``, or MODEL/TAG of open_clip.
        shots: images of every class.
        config: settings that differ from the method's published recipe.
        views: augmented views of each training image; 1 is the plain view alone.

    Returns:
        The module, which knows how it was fitted (``module.about``) and can be given to
        ``evaluate``, or written with ``module.save(path)``.

    Raises:
        CompatbenchError: an unknown name, a wrong setting, or missing images or weights.
    """
    from compatbench.engine.single_module import fit_module

    return fit_module(method, task, source, shots, seed, dict(config or {}), views, device)


def evaluate(
    module: Module | str | Path,
    backbone: str,
    task: str | None = None,
    *,
    transfer: str = "copied",
    methods: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    source: str | None = None,
    format: str = "auto",
    settings: Mapping[str, object] | None = None,
    classes: str | Sequence[str] | None = None,
    gate: bool = False,
) -> Evaluation:
    """A module on a backbone and on its source, beside zero-shot; nothing is trained.

    Args:
        module: of ``fit``, the file of one, as ``run`` leaves it in ``runs/modules/``, or
            ``hf://OWNER/NAME``.
        backbone: the new model.
        task: the module's task by default, or a variant of it.
        transfer: how the module reaches the backbone, a name of ``transfers()``.
        methods: the method's file, if it is not among ``methods()``.
        precision: as for ``run``.
        source: of a checkpoint of other code, which is imported on the way: what it was trained
            on. ``task`` is then the task that it was trained for, or a variant.
        format, settings, classes: of such a checkpoint, as for ``import_module``.
        gate: attach zero-shot where ``predict`` expects harm, from the task's training images
            without labels: the transfer ``gated``, or with ``words`` ``gated-words``.

    Returns:
        Accuracies, zero-shot, gain, H, flips and a verdict; ``as_dict()`` has them by name.

    Raises:
        CompatbenchError: a damaged module, an unknown name, or a task that the module was not
            fitted for.
    """
    from compatbench.engine.single_module import evaluate_module, import_for
    from compatbench.method.registry import gate_transfer
    from compatbench.plugins import open_address

    if gate:
        transfer = gate_transfer(transfer)
    given = open_address(module)
    if source is None and (settings or classes or format != "auto"):
        raise CompatbenchError(
            "settings, classes and format are those of a checkpoint of other code: give the source "
            "that it was trained on, too, or leave them out"
        )
    if source is not None:
        given = import_for(given, task, source, format, settings, classes, device)
    return evaluate_module(given, backbone, task, transfer, methods, device, precision)


def port(
    module: Module | str | Path,
    backbone: str,
    *,
    transfer: str | None = None,
    methods: str | None = None,
    device: str = "auto",
) -> Module:
    """A module written for another backbone, where it needs no transfer; nothing is trained.

    What is written in the joint space's coordinates is rotated as by the transfer
    ``words``, which moves no means, so that tensors can express it; all else stays as it is.

    Args:
        module, methods: as for ``evaluate``.
        backbone: the new model.
        transfer: ``words``, ``words+raw`` or ``copied``; by default words where the method acts in
            the joint space, and copied elsewhere.

    Returns:
        The module, whose ``about`` has the new source and what it was ``ported`` from.

    Raises:
        CompatbenchError: as ``evaluate``; or the module does not fit the backbone, or no rotation
            of its tensors gives the logits that it has through the transfer.
    """
    from compatbench.engine.port import port_module
    from compatbench.plugins import open_address

    given = open_address(module)
    return port_module(given, backbone, transfer, methods, device)


def import_module(
    format: str,
    file: str | Path,
    task: str,
    source: str,
    *,
    settings: Mapping[str, object] | None = None,
    classes: str | Sequence[str] | None = None,
    device: str = "auto",
) -> Module:
    """Converts a checkpoint of other code to a module; nothing in the file is run.

    The file's own token embeddings or text features, where it holds any, tell whether the classes
    and the source are the right ones; if not, it is refused.

    Args:
        format: a name of ``formats()``, the path of a format file, or ``auto``: what the
            contents are recognised as.
        file: the checkpoint, or the folder that its authors' code made.
        task: whose classes it knows; the images need not be here.
        source: the backbone that it was trained on.
        settings: what the file does not hold: α and β of a cache, or any setting of the method.
        classes: if it knows some of the task's classes alone: ``base`` or ``new``, the halves of
            base-to-new generalisation, their names in its order, or a file of these. ``all``
            lets prompts that were trained on the first classes serve all.

    Returns:
        The module, which knows where it is from (``module.about``), for ``evaluate`` or
        ``module.save(path)``.

    Raises:
        CompatbenchError: a damaged file, one that holds more than tensors, is of another format,
            source or task, or needs a setting that is not given.
    """
    from compatbench.backbone.device import resolve_device
    from compatbench.method.convert import import_checkpoint

    given = dict(settings or {})
    return import_checkpoint(
        format, Path(file), task, source, given, classes, resolve_device(device)
    )


def export_module(
    format: str, module: Module | str | Path, file: str | Path, *, dtype: str | None = None
) -> Exported:
    """Writes a module as the code that a format is of writes its own.

    Args:
        format: a name of ``formats()``.
        module: of ``import_module`` or ``fit``, or the file of one.
        file: to write; of formats with several files, the folder.
        dtype: ``float16``, ``bfloat16`` or ``float32``; by default that of the file that it was
            imported from, or what the format's own code uses.

    Returns:
        The ``files``, and the settings that they do not hold (``not_stored``), such as α and β of
        a cache.

    Raises:
        CompatbenchError: the format is of another method, or does not hold all of the module.
    """
    from compatbench.engine.single_module import read_module
    from compatbench.method.convert import export_checkpoint
    from compatbench.plugins import open_address

    return export_checkpoint(format, read_module(open_address(module)), Path(file), dtype)
