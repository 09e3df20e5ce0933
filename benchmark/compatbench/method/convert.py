"""Import: from a file to a module that knows where it is from; and export, the way back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ValidationError

from compatbench.backbone import Labels, load_backbone
from compatbench.data.cards.halves import half_labels
from compatbench.data.task import task_labels
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.files.hashes import sha256_file
from compatbench.messages import first_line, first_problem
from compatbench.method import Method, Module
from compatbench.method.checkpoint_reader import Checkpoint, read_checkpoint
from compatbench.method.format import Format, Import
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


def import_checkpoint(
    kind: str,
    path: Path,
    task: str,
    source: str,
    settings: Mapping[str, Any],
    classes: str | Sequence[str] | None = None,
    device: str = "cpu",
) -> Module:
    """A file as a module, as ``compatbench.import_module`` says."""
    file = read_checkpoint(path)
    chosen = _choose(kind, file)
    for name, where in chosen.needs.items():
        if not isinstance(settings.get(name), int | float):
            raise CompatbenchError(
                f"{file.path} does not hold '{name}', which its classifier needs; give --set "
                f"{name}=NUMBER ({where})"
            )
    labels, kept = choose_classes(task_labels(task), classes, task)
    given = Import(file, load_backbone(source, device), labels, dict(settings))
    if kept is None and classes == "all" and (rows := file.tensors.get(chosen.suffix)) is not None:
        # It serves all classes, and was trained on the first of them.
        given.labels = replace(labels, names=labels.names[: len(rows)])
    with torch.no_grad():
        module, config, confirmed = chosen.read(given)
        method = _build(chosen, config | given.settings, file.path)
        module = module.to(given.backbone.device)
        confirmed |= chosen.confirm(given, method, module)
        try:
            method.attach(module, given.backbone, labels)
        except NotTransferable as why:
            raise given.error(f"does not fit '{source}' and '{task}': {why.reason}") from None
    imported = {
        "format": chosen.name,
        "file": file.path.name,
        "sha256": sha256_file(file.path),
        "settings": dict(settings),
        "dtype": given.dtype,
        "classes and source": "confirmed by the file" if confirmed else "as given",
        "notes": given.notes,
    }
    about: dict[str, Any] = {"method": chosen.method, "task": task, "source": source}
    about |= {"config": method.config.model_dump(mode="json"), **_draw_of(file.path)}
    about |= {"classes": kept, "imported": imported}
    return Module(module.trained, module.stored, about)


class Exported(NamedTuple):
    """The files that were written, and the settings that they do not hold."""

    files: list[Path]
    not_stored: dict[str, float]


def export_checkpoint(kind: str, module: Module, path: Path, dtype: str | None) -> Exported:
    """Writes a module in a format, as ``compatbench.export_module`` says."""
    chosen, about = find_format(kind), module.about
    name = about.get("method", "?")
    if chosen.method != name:
        able = [each for each, cls in builtin_formats().classes.items() if cls.method == name]
        hint = f"; give {' or '.join(able)}" if able else ""
        raise CompatbenchError(
            f"the format '{chosen.name}' is for modules of '{chosen.method}', and this is one of "
            f"'{name}'{hint}"
        )
    kind = dtype or about.get("imported", {}).get("dtype") or chosen.dtype
    if kind not in ("float16", "float32", "bfloat16"):
        raise CompatbenchError(f"--dtype '{kind}': give float16, bfloat16 or float32")
    config = about.get("config", {})
    not_stored = {n: float(module[n] if n in module.stored else config[n]) for n in chosen.needs}
    return Exported(chosen.write(module, config, path, kind), not_stored)


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


def _build(chosen: Format, config: Mapping[str, Any], path: Path) -> Method:
    cls = builtin_methods().get(chosen.method)
    try:
        settings: BaseModel = cls.Config.model_validate(config)
    except ValidationError as error:
        name, problem = first_problem(error)
        if error.errors()[0]["type"] == "extra_forbidden":
            problem = f"'{chosen.method}' has no such setting"
        raise CompatbenchError(f"{path}: setting '{name}': {problem}") from None
    return cls(settings)


def _draw_of(path: Path) -> dict[str, int]:
    """Shots and seed where the authors' folders tell them: ``16shots/.../seed1/``."""
    draw = {}
    for name, pattern in (("shots", r"([1-9]\d*)[_-]?shots?"), ("seed", r"seed[_-]?(\d+)")):
        if numbers := re.findall(pattern, str(path.absolute())):
            draw[name] = int(numbers[-1])
    return draw
