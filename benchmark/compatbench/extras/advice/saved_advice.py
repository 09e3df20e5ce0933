"""What advice leaves in a folder: a page, its numbers, and the modules that commands go on with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from compatbench.extras.advice.advice import Advice
from compatbench.extras.advice.asked import option_table
from compatbench.extras.advice.cross_fit import CrossFit
from compatbench.files.atomic import write_atomic
from compatbench.method import Module, load_module
from compatbench.tables.markdown import render_table

PAGE = "advice.md"
NUMBERS = "advice.json"


def save_advice(advice: Advice, task: str, out: Path) -> None:
    """Write the page and the numbers."""
    page = [
        f"# Advice on {task}",
        f"```text\n{advice.summary()}\n```",
        render_table(option_table(advice.measured)),
        f"```text\n{advice.details()}\n```",
    ]
    write_atomic(out / PAGE, ("\n\n".join(page) + "\n").encode())
    numbers = {
        "task": task,
        "targets": _records(advice.targets),
        "verdicts": _records(advice.frame),
        "options": _records(advice.options),
    }
    text = json.dumps(numbers, indent=1, ensure_ascii=False)
    write_atomic(out / NUMBERS, f"{text}\n".encode())


def list_written(advice: Advice, out: Path) -> list[str]:
    """Return what advice on one's own images left in a folder: a task's own cards if it has any."""
    [task] = advice.measured[0].tasks
    written = [str(out / PAGE), str(out / NUMBERS)]
    card = out / f"{task}.yaml"
    if card.exists():
        written.append(f"the cards of the task ({card} and others)")
    modules = _folder_of_modules(out, task)
    if any(Path(file).parent == modules for file in _list_modules(advice)):
        written.append(f"modules ({modules}/)")
    return written


def _list_modules(advice: Advice) -> Iterable[str]:
    return () if advice.asked is None else advice.asked.files.values()


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame as JSON values."""
    return json.loads(frame.to_json(orient="records"))


def save_modules(
    out: Path, task: str, modules: Mapping[str, Module], given: Sequence[Module | str | Path]
) -> dict[tuple[str, str], str]:
    """Return the files of given modules; write those that were imported, or have no file."""
    files = {}
    for (name, module), address in zip(modules.items(), given, strict=True):
        file = str(address)
        if isinstance(address, Module) or module.about.get("imported") is not None:
            file = _write(module, out, task, name)
        files[name, ""] = file
    return files


def save_trained(
    out: Path,
    task: str,
    names: Mapping[str, str],
    trained: CrossFit,
    retrained: CrossFit,
    source: str,
) -> dict[tuple[str, str], str]:
    """Write one module of each method that was trained, and return their files."""
    files = {}
    for (method, backbone), path in trained.modules.items():
        if backbone == source:
            files[method, ""] = _write(load_module(path), out, task, method)
    for (method, backbone), path in retrained.modules.items():
        name = names[method]
        place = re.sub(r"[^\w.-]+", "-", backbone)
        label = f"{name}-retrained-on-{place}"
        files[name, backbone] = _write(load_module(path), out, task, label)
    return files


def _write(module: Module, out: Path, task: str, name: str) -> str:
    path = _folder_of_modules(out, task) / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    module.save(path)
    return str(path)


def _folder_of_modules(out: Path, task: str) -> Path:
    return out / f"{task}-modules"
