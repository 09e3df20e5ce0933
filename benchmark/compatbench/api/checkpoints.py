"""Modules from the checkpoints of other code, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from compatbench.formats.convert import Exported, Inspection
    from compatbench.method import Module


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
    from compatbench.engine.execute.compute import resolve_device
    from compatbench.formats.convert import import_checkpoint

    given = dict(settings or {})
    return import_checkpoint(
        format, Path(file), task, source, given, classes, resolve_device(device)
    )


def inspect_checkpoint(file: str | Path) -> Inspection:
    """What a checkpoint holds, and of which format it is; it need not be of a known one.

    Raises:
        CompatbenchError: a damaged file, or one that holds more than tensors.
    """
    from compatbench.formats.convert import inspect_checkpoint

    return inspect_checkpoint(Path(file))


def export_module(
    format: str, module: Module | str | Path, file: str | Path, *, dtype: str | None = None
) -> Exported:
    """Writes a module as the code that a format is of writes its own.

    Args:
        format: a name of ``formats()``.
        module: of ``import_module`` or ``fit``, or the file of one.
        file: to write; of formats with several files, the folder.
        dtype: ``float16`` or ``float32``; by default that of the file that it was imported
            from, or what the format's own code uses.

    Returns:
        The ``files``, and the settings that they do not hold (``not_stored``), such as α and β of
        a cache.

    Raises:
        CompatbenchError: the format is of another method, or does not hold all of the module.
    """
    from compatbench.engine.single_module import read_module
    from compatbench.formats.convert import export_checkpoint
    from compatbench.sharing.hub import local_module

    return export_checkpoint(format, read_module(local_module(module)), Path(file), dtype)


def formats() -> pd.DataFrame:
    """The formats: name, method of the modules, settings that have to be given, and of what code.

    A format that cannot be loaded is left out, with a warning.
    """
    import pandas as pd

    from compatbench.formats.registry import formats

    rows = [
        (name, one.method, ", ".join(one.needs), _first_line(one))
        for name, one in sorted(formats().items())
    ]
    return pd.DataFrame(rows, columns=pd.Index(["name", "method", "settings to give", "code"]))


def _first_line(thing: object) -> str:
    """Of its docstring, as plain text."""
    import inspect

    return (inspect.getdoc(thing) or "").partition("\n")[0].replace("``", "")
