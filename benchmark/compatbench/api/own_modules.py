"""Single modules: fitted, measured, converted and ported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.method import Module
    from compatbench.method.convert import Exported
    from compatbench.results.evaluation import Evaluation


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
        method: a name (see ``list methods``), or the path of a method file.
        task, source: names of a task and a backbone, or MODEL/TAG of open_clip.
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
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32",
    source: str | None = None,
    format: str = "auto",
    settings: Mapping[str, object] | None = None,
    classes: str | Sequence[str] | None = None,
    gate: bool = False,
) -> Evaluation:
    """Shows whether a module survives a new model; nothing is trained.

    Its accuracy there and on its source, each beside zero-shot, and the share of images that were
    right before and are wrong now.

    Args:
        module: a module: its file, which ``run`` leaves in ``runs/modules/``, or
            ``hf://OWNER/NAME``, or what ``fit`` gives; with a source, a checkpoint of other code.
        backbone: the new model: a name (see ``list backbones``), or ``MODEL/TAG`` of open_clip,
            ``MODEL@FILE``, ``local-dir:FOLDER``, ``hf:FOLDER``.
        task: the test set: the module's task, which is the default, or a variant of it.
        transfer: how the module reaches the new model (see ``list transfers``): ``copied``, or
            ``words``, which rotates the new model's joint space by words alone. With the
            ``words-*.safetensors`` that ``run`` leaves beside its modules, ``words`` does not need
            the source model.
        methods: the method's file, if it is not among ``list methods``; it is run as code.
        precision: number format of the frozen towers, as for ``run``.
        source: of a checkpoint of other code: the model that it was trained on. The task is then
            the one that it was trained for, or a variant.
        format: of a checkpoint: its format, as for ``import``.
        settings: of a checkpoint: settings that it does not hold, such as ``alpha=1``.
        classes: of a checkpoint: the classes that it knows, as for ``import``.
        gate: use the new model's zero-shot in place of the module where ``predict`` expects harm,
            from the task's training images without their labels: the transfer ``gated``, or with
            ``words`` ``gated-words``.

    Returns:
        Accuracies, zero-shot, gain, H, flips and a verdict; ``as_dict()`` has them by name.

    Raises:
        CompatbenchError: a damaged module, an unknown name, or a task that the module was not
            fitted for.
    """
    from compatbench.engine.single_module import import_for
    from compatbench.method.registry import gate_transfer
    from compatbench.plugins import open_address
    from compatbench.results.evaluation import evaluate_module

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
    """Writes a module for a new model, where it needs no transfer; nothing is trained.

    Tensors in the joint space's coordinates (keys of a cache, a probe, a residual on class
    weights) are rotated as the transfer ``words`` rotates the model; the others are unchanged. It
    is an error if the result does not give the transfer's logits.

    Args:
        module: a module: its file, which ``run`` leaves in ``runs/modules/`` and ``import``
            writes, or ``hf://OWNER/NAME``, or what ``fit`` gives.
        backbone: as for ``evaluate``.
        transfer: ``words``, ``words+raw``, or ``copied``, which changes nothing; by default words
            for methods that act in the joint space, and copied for others.
        methods: as for ``evaluate``.

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
    """Converts a checkpoint of other code to a module that ``evaluate`` takes.

    Nothing in the file is run. If it has token embeddings or text features, they are used to
    verify task and source.

    Args:
        format: a format, ``auto`` (recognised by the contents), or the path of a format file
            (``./mine.py``), which is run as code.
        file: the checkpoint, or the folder that its authors' code made.
        task: the task that it was trained for; its images need not be here.
        source: the model that it was trained on (see ``list backbones``).
        settings: settings that the file does not hold, such as ``alpha=1``.
        classes: if it knows only some of the task's classes: ``base`` or ``new``, the halves of
            base-to-new generalisation, their names in its order, or a file of names. ``all`` uses
            prompts that were trained on the first classes for all classes.

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
    """Writes a module as a checkpoint for other code.

    Args:
        format: the format; ``import`` lists them.
        module: as for ``port``.
        file: the file to write; for formats of several files, the folder.
        dtype: ``float16``, ``bfloat16`` or ``float32``; by default that of the file it was
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
