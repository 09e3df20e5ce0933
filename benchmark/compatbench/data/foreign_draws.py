"""Reads the few-shot draws that other code has kept: CoOp's pickles, and the lists of 2SFS.

CoOp and its successors: ``split_fewshot/shot_K-seed_S.pkl``, a pickle of ``{"train": ..., "val":
...}``, lists of Dassl's ``Datum``. 2SFS: ``shot_K-seed_S_train.jsonl`` and ``..._val.jsonl``, on
each line the attributes of one as JSON."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compatbench.data.draws import Draw, ShotsFile, find_drawn
from compatbench.data.images.dataset_files import BrokenImages, read_bytes, read_lines
from compatbench.data.task import Task
from compatbench.errors import CompatbenchError
from compatbench.messages import first_line, first_problem, one_line

_NAME = re.compile(r"shot_(\d+)-seed_(\d+)")
_LIST = "_train.jsonl"


class _Datum:
    """In place of Dassl's: it takes attributes, and has no code."""


# Python's own reader, not the one in C, which takes memory for as many objects as a file claims.
class _Reader(pickle._Unpickler):  # type: ignore[misc, name-defined]
    """Makes plain values and ``_Datum``; any other name in the file ends the reading."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "Datum":
            return _Datum
        raise CompatbenchError(f"it asks for {one_line(f'{module}.{name}')}; nothing in it was run")


def read_foreign_draw(path: Path, task: Task, shots: int, seed: int) -> Draw:
    """The draw in a file of CoOp's or 2SFS's; images are found by the ends of their paths.

    An image that is listed twice, as Dassl does where a class has too few, is taken once.

    Raises:
        CompatbenchError: the file cannot be read, is of other shots or another seed by its name,
            or lists an image that is not the task's, or has another label there.
    """
    if (told := _NAME.search(path.name)) and (told[1], told[2]) != (str(shots), str(seed)):
        raise CompatbenchError(f"{path} is another draw; give --shots {told[1]} --seed {told[2]}")
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "val": []}
    for split, items in _read(path).items():
        ids = {sample.id for sample in task.split(split)}
        rows[split] = [*dict.fromkeys(_find(path, item, ids, task.name) for item in items)]
    try:
        file = ShotsFile(
            format=1, task=task.name, shots=shots, seed=seed, train=rows["train"], val=rows["val"]
        )
    except ValidationError as error:  # an image of two labels, or in both splits
        raise CompatbenchError(f"{path}: {first_problem(error)[1]}") from None
    return find_drawn(path, file, task)


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """By ``train`` and, if it is there, ``val``: the attributes of each image."""
    try:
        if path.name.endswith(_LIST):
            files = {"train": path, "val": path.with_name(path.name.replace(_LIST, "_val.jsonl"))}
            return {
                split: [json.loads(line) | {} for line in read_lines(file)]
                for split, file in files.items()
                if split == "train" or file.is_file()
            }
        data = _Reader(io.BytesIO(read_bytes(path))).load()
        return {
            split: [vars(item) for item in data[split]]
            for split in ("train", "val")
            if split == "train" or split in data
        }
    except BrokenImages:
        raise
    except CompatbenchError as error:
        raise CompatbenchError(f"{path} is not a draw: {error}") from None
    # A pickle that is none can raise anything.
    except Exception as error:
        what = f"{path} is neither a draw of CoOp's (.pkl) nor one of 2SFS's (..._train.jsonl)"
        raise CompatbenchError(f"{what}: {first_line(error)}") from None


def _find(path: Path, item: Mapping[str, Any], ids: set[str], task: str) -> tuple[str, int]:
    """The image as the task's split lists it, and its label in the file."""
    place, label = item.get("_impath"), item.get("_label")
    if not isinstance(place, str) or not isinstance(label, int):
        raise CompatbenchError(f"{path}: an image without path ('_impath') or label ('_label')")
    parts = place.replace("\\", "/").split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))  # the longest first
    if (ending := next((end for end in ends if end in ids), None)) is None:
        what = f"'{one_line(place)}' is not an image to draw from of '{task}'"
        raise CompatbenchError(f"{path}: {what}")
    return ending, label
