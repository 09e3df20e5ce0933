"""Import: from a file to a module that knows where it is from; and export, the way back."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from compatbench.backbone import Labels, load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.data.cards.names import half_labels
from compatbench.data.task import task_labels
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import hash_file
from compatbench.files.kinds import require_new
from compatbench.messages import first_line
from compatbench.method import Module, load_module, read_settings
from compatbench.method.checkpoint_reader import Checkpoint, read_checkpoint
from compatbench.method.format import Format, Import
from compatbench.method.hub import local_file
from compatbench.method.registry import builtin_formats, builtin_methods, find_format

AUTO = "auto"


@dataclass(frozen=True)
class Inspection:
    """What a file holds, as far as it tells without a source.

    Attributes:
        formats: those that it may be of.
        tensors: shape and type of each, by name.
        values: numbers and texts beside them.
        needs: settings that have to be given, each with what the authors use.
    """

    path: Path
    formats: tuple[str, ...]
    tensors: Mapping[str, tuple[tuple[int, ...], str]]
    values: Mapping[str, Any]
    needs: Mapping[str, str]


def inspect_checkpoint(file: str | Path) -> Inspection:
    """What a checkpoint holds, and of which format it is; it need not be of a known one.

    Raises:
        CompatbenchError: a damaged file, or one that holds more than tensors.
    """
    read = read_checkpoint(Path(file))
    names = tuple(recognise(read))
    tensors = {name: (tuple(t.shape), str(t.dtype)[6:]) for name, t in read.tensors.items()}
    needs = {need: why for name in names for need, why in find_format(name).needs.items()}
    return Inspection(read.path, names, tensors, read.values, needs)


def recognise(file: Checkpoint) -> list[str]:
    """The formats whose names and shapes a file has; one at most of those that are here."""
    return [name for name, cls in builtin_formats().classes.items() if cls().recognise(file)]


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
    settings, checkpoint = dict(settings or {}), read_checkpoint(Path(file))
    chosen = _choose(format, checkpoint)
    for name, where in chosen.needs.items():
        if not isinstance(settings.get(name), int | float):
            raise CompatbenchError(
                f"{checkpoint.path} does not hold '{name}', which its classifier needs; give --set "
                f"{name}=NUMBER ({where})"
            )
    labels, kept = choose_classes(task_labels(task), classes, task)
    backbone = load_backbone(source, resolve_device(device))
    reading = Import(checkpoint, backbone, labels, dict(settings))
    rows = checkpoint.tensors.get(chosen.suffix)
    if classes == "all" and rows is not None:
        # It serves all classes, and was trained on the first of them.
        reading.labels = replace(labels, names=labels.names[: len(rows)])
    with torch.no_grad():
        module, config, confirmed = chosen.read(reading)
        cls = builtin_methods().get(chosen.method)
        whose = f"'{chosen.method}', for {checkpoint.path}"
        method = cls(read_settings(cls.Config, config | reading.settings, whose))
        module = module.to(reading.backbone.device)
        confirmed |= chosen.confirm(reading, method, module)
        try:
            method.attach(module, reading.backbone, labels)
        except NotTransferable as why:
            raise reading.error(f"does not fit '{source}' and '{task}': {why.reason}") from None
    imported = {
        "format": chosen.name,
        "file": checkpoint.path.name,
        "sha256": hash_file(checkpoint.path),
        "settings": settings,
        "dtype": reading.dtype,
        "classes and source": "confirmed by the file" if confirmed else "as given",
        "notes": reading.notes,
    }
    about: dict[str, Any] = {"method": chosen.method, "task": task, "source": source}
    about |= {"config": method.config.model_dump(mode="json"), **_draw_of(checkpoint.path)}
    about |= {"classes": kept, "labels": labels.described, "imported": imported}
    return Module(module.trained, module.stored, about)


class Exported(NamedTuple):
    """The files that were written, and the settings that they do not hold."""

    files: list[Path]
    not_stored: dict[str, float]


def export_module(
    format: str, module: Module | str | Path, file: str | Path, *, dtype: str | None = None
) -> Exported:
    """Writes a module as a checkpoint for other code.

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
    chosen, read = find_format(format), read_module(local_file(module))
    about = read.about
    name = about.get("method", "?")
    if chosen.method != name:
        able = [each for each, cls in builtin_formats().classes.items() if cls.method == name]
        hint = f"; give {' or '.join(able)}" if able else ""
        raise CompatbenchError(
            f"the format '{chosen.name}' is for modules of '{chosen.method}', and this is one of "
            f"'{name}'{hint}"
        )
    kinds, kept = ("float16", "float32", "bfloat16"), about.get("imported", {}).get("dtype")
    kind = dtype or (kept if kept in kinds else chosen.dtype)
    if kind not in kinds:
        raise CompatbenchError(f"--dtype '{kind}': give float16, bfloat16 or float32")
    config = about.get("config", {})
    not_stored = {n: float(read[n] if n in read.stored else config[n]) for n in chosen.needs}
    written = read.map(lambda tensor: tensor.detach().cpu().to(getattr(torch, kind)).contiguous())
    contents = chosen.write(written, config, Path(file))
    for path in contents.keys() - {Path(file)}:
        require_new(path, "give another folder")
    for path, content in contents.items():
        write_atomic(path, content)
    return Exported([*contents], not_stored)


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
    """A module, or that of a file."""
    other = (
        "a checkpoint of other code needs --source and --task (compatbench module import --help)"
    )
    if isinstance(module, Path) and module.is_dir():
        raise CompatbenchError(
            f"{module} is a folder; give a module's file, *.safetensors, in it; {other}"
        )
    if isinstance(module, Path) and zipfile.is_zipfile(module):
        raise CompatbenchError(f"{module} is not a module of compatbench; {other}")
    return load_module(module) if isinstance(module, Path) else module


def choose_classes(
    labels: Labels, classes: str | Sequence[str] | None, task: str
) -> tuple[Labels, list[int] | None]:
    """The classes that a module knows, and their labels if they are not all.

    ``base`` and ``new`` are the halves of base-to-new generalisation (CoOp's
    ``SUBSAMPLE_CLASSES``); others are named one by one, or in a file with a name on each line.
    """
    names = labels.names
    if classes in (None, "all"):
        return labels, None
    if classes in ("base", "new"):
        kept = [*half_labels(len(names), classes)]
    else:
        if isinstance(classes, str):
            try:
                lines = Path(classes).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                what = f"--classes '{classes}': give all, base, new, or a file of names"
                raise CompatbenchError(f"{what} ({first_line(error)})") from None
            classes = [line.strip() for line in lines if line.strip()]
        unknown = [name for name in classes if name not in names]
        if unknown or len(set(classes)) < len(classes) or not classes:
            what = f"'{unknown[0]}' is not a class of '{task}'" if unknown else "a name is repeated"
            raise CompatbenchError(f"--classes: {what if classes else 'there is no name in it'}")
        kept = [names.index(name) for name in classes]
    return replace(labels, names=tuple(names[label] for label in kept)), kept


def _choose(kind: str, file: Checkpoint) -> Format:
    if kind != AUTO:
        return find_format(kind)
    if len(names := recognise(file)) != 1:
        known = ", ".join(builtin_formats().names())
        raise CompatbenchError(f"{file.path} is of no format that is recognised; name it: {known}")
    return find_format(names[0])


def _draw_of(path: Path) -> dict[str, int]:
    """Shots and seed where the authors' folders tell them: ``16shots/.../seed1/``."""
    draw = {}
    for name, pattern in (("shots", r"([1-9]\d*)[_-]?shots?"), ("seed", r"seed[_-]?(\d+)")):
        if numbers := re.findall(pattern, str(path.absolute())):
            draw[name] = int(numbers[-1])
    return draw
