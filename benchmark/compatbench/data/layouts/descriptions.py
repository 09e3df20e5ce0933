"""Descriptions of a task's classes: several texts for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import RootModel

from compatbench.data.images.dataset_files import read_json
from compatbench.errors import CompatbenchError


def read_descriptions(path: Path, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the texts of each class, in the file's order, without empty ones and repeats.

    Names are compared without capitals, and with spaces for underscores.
    """

    def plain(name: str) -> str:
        return " ".join(name.replace("_", " ").casefold().split())

    by_name = read_json(path, RootModel[dict[str, tuple[str, ...]]]).root
    texts = {plain(name): listed for name, listed in by_name.items()}
    rows = []
    for name in names:
        listed = texts.get(plain(name), ())
        unique = dict.fromkeys(" ".join(text.split()) for text in listed)
        unique.pop("", None)
        if not unique:
            raise CompatbenchError(f"{path} has no text of the class '{name}'; add one")
        rows.append(tuple(unique))
    return tuple(rows)
