"""Single modules and stored indexes: fitted, measured, predicted, converted and ported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compatbench.engine.single_module import Evaluation
    from compatbench.extras.indexes.index_port import PortedIndex
    from compatbench.extras.studies.predict import Prediction
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
    from compatbench.extras.sharing.hub import local_module
    from compatbench.method.transfer_registry import gate_transfer

    if gate:
        transfer = gate_transfer(transfer)
    given = local_module(module)
    if source is None and (settings or classes or format != "auto"):
        raise CompatbenchError(
            "settings, classes and format are those of a checkpoint of other code: give the source "
            "that it was trained on, too, or leave them out"
        )
    if source is not None:
        given = import_for(given, task, source, format, settings, classes, device)
    return evaluate_module(given, backbone, task, transfer, methods, device, precision)


def predict(
    module: Module | str | Path,
    backbone: str,
    *,
    images: str | Path | None = None,
    methods: str | None = None,
    device: str = "auto",
) -> Prediction:
    """What a module will gain over a new model's zero-shot, before anything is labelled there.

    It was fitted on miniature models.

    Args:
        module, methods: as for ``evaluate``.
        backbone: the new model.
        images: a folder of images of the module's task, at any depth, without labels; with less
            than a hundred there is a warning. Without it, the models and the place of the module
            are all that is known.

    Returns:
        A prediction: ``ways`` has the gain with a 90 % interval, copied and through ``words``
        where that serves the method, and the reason where it cannot be attached; ``advice`` says
        what to do; ``as_dict()`` has it all.

    Raises:
        CompatbenchError: as ``evaluate``; or a folder without images.
    """
    from compatbench.extras.sharing.hub import local_module
    from compatbench.extras.studies.predict import predict_module

    folder = None if images is None else Path(images)
    return predict_module(local_module(module), backbone, folder, methods, device)


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
    from compatbench.extras.sharing.hub import local_module

    given = local_module(module)
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
    from compatbench.extras.sharing.hub import local_module
    from compatbench.method.convert import export_checkpoint

    return export_checkpoint(format, read_module(local_module(module)), Path(file), dtype)


def port_index(
    index: str | Path,
    source: str,
    target: str,
    *,
    way: str | None = None,
    images: str | Path | tuple[NDArray[Any], NDArray[Any]] | None = None,
    out: str | Path | None = None,
    column: str | None = None,
    device: str = "auto",
    progress: Callable[[str], object] = lambda line: None,
) -> PortedIndex:
    """Writes a stored index of image embeddings for another backbone; nothing is encoded again.

    The index is read and written block by block, in memory that does not grow with it. Numbers
    keep their type, rows their order, vectors their length; ids and other columns are kept. A
    file appears whole or not at all, with its facts in a JSON beside it.

    Args:
        index: a ``.npy`` matrix, a parquet file with a column of lists, or a flat Faiss index.
        source, target: the model that made the index, and the one that queries will come from.
        way: ``words`` (nothing but the two models), ``images``, ``low-rank``, ``ridge`` (the two
            models' vectors of some images), or ``copied``, which writes nothing. By default
            ``ridge`` with images and ``words`` without.
        images: a folder of images, which both models encode; or their vectors on both, two
            matrices ``[n, e]`` with the same images in the same rows.
        out: the file to write; by default INDEX-for-MODEL in this folder.
        column: of the vectors, where a parquet file has several.

    Returns:
        Where the index is, how near the map comes to the new model, and the recall to expect, if
        this upgrade was measured.

    Raises:
        CompatbenchError: a file that is damaged, of another kind or another width than the
            source's, a vector that is not finite, an unknown name, too few images, or a file that
            exists.
    """
    from compatbench.extras.indexes.index_port import port_index
    from compatbench.results.retrieval import find_expected

    return port_index(
        Path(index),
        source,
        target,
        way,
        Path(images) if isinstance(images, str) else images,
        None if out is None else Path(out),
        column,
        device,
        find_expected,
        progress,
    )
