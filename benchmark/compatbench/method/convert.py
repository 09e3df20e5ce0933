"""Import a module from a file of other code, with a record of its origin, and export it again."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

from compatbench.backbone import Labels, load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.data.cards import task_cards
from compatbench.data.cards.names import did_you_mean, half_labels
from compatbench.data.task import task_labels
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import hash_file
from compatbench.files.kinds import require_new
from compatbench.messages import first_line
from compatbench.method import Method, Module, load_module, read_settings
from compatbench.method.checkpoint_reader import Checkpoint, read_checkpoint
from compatbench.method.format import Format, Import, OtherOrder
from compatbench.method.hub import local_file
from compatbench.method.registry import builtin_formats, builtin_methods, find_format

AUTO = "auto"


@dataclass(frozen=True)
class Inspection:
    """The content of a file, as far as it is known without a source.

    Attributes:
        path: the file.
        formats: the formats that it may have.
        tensors: shape and type of each, by name.
        values: numbers and texts beside them.
        needs: settings that the user has to give, each with the authors' value.
    """

    path: Path
    formats: tuple[str, ...]
    tensors: Mapping[str, tuple[tuple[int, ...], str]]
    values: Mapping[str, Any]
    needs: Mapping[str, str]


def inspect_checkpoint(file: str | Path) -> Inspection:
    """Return the content of a checkpoint, and its format if that is a known one.

    Raises:
        CompatbenchError: a damaged file, or one that holds more than tensors.
    """
    checkpoint = read_checkpoint(Path(file))
    names = tuple(recognise(checkpoint))
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        tensors[name] = (tuple(tensor.shape), kind)
    needs: dict[str, str] = {}
    for name in names:
        needs |= find_format(name).needs
    return Inspection(checkpoint.path, names, tensors, checkpoint.values, needs)


def recognise(file: Checkpoint) -> list[str]:
    """Return the formats whose names and shapes a file has; of ours, at most one."""
    return [name for name, cls in builtin_formats().classes.items() if cls().recognise(file)]


def import_module(
    format: str,
    file: str | Path,
    task: str | os.PathLike[str],
    source: str,
    *,
    settings: Mapping[str, object] | None = None,
    classes: str | Sequence[str] | None = None,
    methods: str | None = None,
    device: str = "auto",
) -> Module:
    """Convert a checkpoint of other code to a module that ``evaluate`` takes.

    Nothing in the file is run. If it has token embeddings or text features, they are used to
    verify task and source.

    Args:
        format: a format, ``auto`` (recognised by the contents), or the path of a format file
            (``./mine.py``), which is run as code.
        file: the checkpoint, or the folder that its authors' code made.
        task: the task that it was trained for; its images need not be here.
        source: the model that it was trained on (see ``list backbones``).
        settings: settings that the file does not hold, such as ``alpha=1``.
        classes: the names of its classes in its order, or a file with a name on each line. If it
            knows only a half of base-to-new generalisation: ``base`` or ``new``. ``all`` uses
            prompts that were trained on the first classes for all classes. By default the task's
            classes, in the file's order if the file shows it, and else in the task's.
        methods: the method's file, if it is not among ``methods()``; it is run as code.

    Returns:
        The module, with a record of its origin (``module.about``), for ``evaluate`` or
        ``module.save(path)``.

    Raises:
        CompatbenchError: a damaged file, one that holds more than tensors, is of another format,
            source or task, or needs a setting that is not given.
    """
    task = task_cards.resolve(task)
    settings = dict(settings or {})
    checkpoint = read_checkpoint(Path(file))
    chosen = _choose(format, checkpoint)
    for name, hint in chosen.needs.items():
        if not isinstance(settings.get(name), int | float):
            raise CompatbenchError(
                f"{checkpoint.path} does not hold '{name}', which its classifier needs; give --set "
                f"{name}=NUMBER ({hint})"
            )
    labels, kept = choose_classes(task_labels(task), classes, task)
    backbone = load_backbone(source, resolve_device(device))
    reading = Import(checkpoint, backbone, labels, dict(settings))
    rows = checkpoint.tensors.get(chosen.suffix)
    if classes == "all" and rows is not None:
        # The file was trained on the first classes, and has rows only for these.
        reading.labels = replace(labels, names=labels.names[: len(rows)])
    if methods is not None:
        builtin_methods().select(methods)
    try:
        method, module, confirmed = _read_module(chosen, reading, labels)
    except OtherOrder as found:
        if classes is not None:
            raise
        kept = found.order
        labels = replace(labels, names=tuple(labels.names[label] for label in kept))
        reading = Import(checkpoint, backbone, labels, dict(settings))
        reading.notes.append("the file has the classes in another order than the task: its own")
        method, module, confirmed = _read_module(chosen, reading, labels)
    undecided = _list_undecided(chosen, reading, settings)
    certainty = "confirmed by the file" if confirmed else "as given"
    if confirmed and undecided:
        certainty += f", but not {' and '.join(undecided)}"
    imported = {
        "format": chosen.name,
        "file": checkpoint.path.name,
        "sha256": hash_file(checkpoint.path),
        "settings": settings,
        "dtype": reading.dtype,
        "classes and source": certainty,
        "notes": reading.notes,
        "undecided": undecided,
        # The settings that the file contains, or that were given or are chosen on images.
        "recorded": sorted(method.config.model_fields_set | undecided.keys()),
    }
    about: dict[str, Any] = {
        "method": chosen.method,
        "task": task,
        "source": source,
        "config": method.config.model_dump(mode="json"),
        **_read_draw(checkpoint.path),
        "classes": kept,
        "labels": labels.described,
        "imported": imported,
    }
    return Module(module.trained, module.stored, about)


def _read_module(chosen: Format, reading: Import, labels: Labels) -> tuple[Method, Module, bool]:
    """Return the method and the module of a file, and True if it confirms classes and source.

    Raises:
        CompatbenchError: the file does not fit the format, the source or the classes.
    """
    with torch.no_grad():
        module, config, confirmed = chosen.read(reading)
        cls = builtin_methods().get(chosen.method)
        whose = f"'{chosen.method}', for {reading.file.path}"
        method = cls(read_settings(cls.Config, config | reading.settings, whose))
        module = module.to(reading.backbone.device)
        confirmed |= chosen.confirm(reading, method, module)
        try:
            method.attach(module, reading.backbone, labels)
        except NotTransferable as error:
            raise reading.error(f"does not fit the source and the task: {error.reason}") from None
    return method, module, confirmed


def _list_undecided(
    chosen: Format, reading: Import, settings: Mapping[str, object]
) -> dict[str, list[Any]]:
    """Return the settings that nobody has decided, with their values; note each of them."""
    undecided = {}
    for name, values in chosen.undecided.items():
        if name in settings:
            continue
        undecided[name] = list(values)
        listed = ", ".join(map(str, values))
        reading.notes.append(
            f"the file does not say '{name}': {values[0]} is assumed, and evaluate and advise try "
            f"{listed} on the images (--set {name}=VALUE decides)"
        )
    return undecided


class Exported(NamedTuple):
    """The files that were written, and the settings that they do not hold."""

    files: list[Path]
    not_stored: dict[str, float]


def export_module(
    format: str, module: Module | str | Path, file: str | Path, *, dtype: str | None = None
) -> Exported:
    """Write a module as a checkpoint for other code.

    Args:
        format: the format; ``module import`` lists them.
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
    chosen = find_format(format)
    loaded = read_module(local_file(module))
    about = loaded.about
    method = about.get("method", "?")
    if chosen.method != method:
        _refuse_format(chosen, method)
    number_type = _choose_dtype(dtype, about, chosen)
    config = about.get("config", {})
    not_stored = {}
    for name in chosen.needs:
        value = loaded[name] if name in loaded.stored else config[name]
        not_stored[name] = float(value)
    written = loaded.map(lambda tensor: tensor.detach().cpu().to(number_type).contiguous())
    contents = chosen.write(written, config, Path(file))
    for path in contents.keys() - {Path(file)}:
        require_new(path, "give another folder")
    for path, content in contents.items():
        write_atomic(path, content)
    return Exported(list(contents), not_stored)


def _refuse_format(chosen: Format, method: str) -> NoReturn:
    """Raise the error for a format of another method, with the formats that would fit."""
    formats = [name for name, cls in builtin_formats().classes.items() if cls.method == method]
    hint = f"; give {' or '.join(formats)}" if formats else ""
    raise CompatbenchError(
        f"the format '{chosen.name}' is for modules of '{chosen.method}', and this is one of "
        f"'{method}'{hint}"
    )


def _choose_dtype(requested: str | None, about: Mapping[str, Any], chosen: Format) -> torch.dtype:
    """Return the requested type, or that of the imported file, or the format's own."""
    known = ("float16", "float32", "bfloat16")
    name = requested
    if not name:
        imported = about.get("imported", {}).get("dtype")
        name = imported if imported in known else chosen.dtype
    if name not in known:
        raise CompatbenchError(f"--dtype '{name}': give float16, bfloat16 or float32")
    return getattr(torch, name)


def load(file: str | Path) -> Module:
    """Load a module from its file, or from the Hugging Face Hub.

    Args:
        file: a file that ``run``, ``module import`` or ``Module.save`` wrote; or
            ``hf://OWNER/NAME``, where ``Module.push_to_hub`` put it. Nothing in it is run.

    Raises:
        CompatbenchError: no such file or repository, a damaged file, one of another kind, or a Hub
            that cannot be reached.
    """
    return read_module(local_file(file))


def read_module(module: Module | Path) -> Module:
    """Return a module as it is, or read it from its file."""
    if not isinstance(module, Path):
        return module
    hint = "a checkpoint of other code needs --source and --task (compatbench module import --help)"
    if module.is_dir():
        raise CompatbenchError(
            f"{module} is a folder; give a module's file, *.safetensors, in it; {hint}"
        )
    if zipfile.is_zipfile(module):
        raise CompatbenchError(f"{module} is not a module of compatbench; {hint}")
    return load_module(module)


def choose_classes(
    labels: Labels, classes: str | Sequence[str] | None, task: str
) -> tuple[Labels, list[int] | None]:
    """Return the classes that a module knows, and their indices; None if they are all.

    ``base`` and ``new`` are the halves of base-to-new generalisation (CoOp's
    ``SUBSAMPLE_CLASSES``); others are named one by one, or in a file with a name on each line.

    Raises:
        CompatbenchError: the file is unreadable, or a name is unknown or repeated.
    """
    names = labels.names
    if classes in (None, "all"):
        return labels, None
    if classes in ("base", "new"):
        kept = list(half_labels(len(names), classes))
    else:
        place = "--class-names"
        if isinstance(classes, str):
            place = f"--class-names {classes}"
            classes = _read_class_file(classes)
        if not classes:
            raise CompatbenchError(f"{place}: there is no name in it")
        kept = []
        for name in classes:
            label = labels.find(name)
            if label is None:
                problem = f"{place}: '{name}' is not a class of '{task}'"
                raise CompatbenchError(f"{problem}{did_you_mean(name, names)}")
            kept.append(label)
        if len(set(kept)) < len(kept):
            raise CompatbenchError(f"{place}: a name is repeated")
    return replace(labels, names=tuple(names[label] for label in kept)), kept


def _read_class_file(path: str) -> list[str]:
    """Return the names in a file with a name on each line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"--class-names '{path}': give all, base, new, or a file of names"
        raise CompatbenchError(f"{problem} ({first_line(error)})") from None
    stripped = [line.strip() for line in lines]
    return [name for name in stripped if name]


def _choose(kind: str, file: Checkpoint) -> Format:
    """Return the format of this name, or the one that the file is recognised as."""
    if kind != AUTO:
        return find_format(kind)
    names = recognise(file)
    if len(names) != 1:
        known = ", ".join(builtin_formats().names())
        raise CompatbenchError(f"{file.path} is of no format that is recognised; name it: {known}")
    return find_format(names[0])


def _read_draw(path: Path) -> dict[str, int]:
    """Return shots and seed if the authors' folders contain them: ``16shots/.../seed1/``."""
    draw = {}
    for name, pattern in (("shots", r"([1-9]\d*)[_-]?shots?"), ("seed", r"seed[_-]?(\d+)")):
        numbers = re.findall(pattern, str(path.absolute()))
        if numbers:
            draw[name] = int(numbers[-1])
    return draw
