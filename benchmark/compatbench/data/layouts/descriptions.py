"""Descriptions of a task's classes: several texts for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import RootModel

from compatbench.data.images.dataset_files import read_json
from compatbench.errors import CompatbenchError


def read_descriptions(path: Path, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the texts of each class, in the file's order, without empty ones and repeats.

    Names are the same whatever joins and capitalises their words.
    """

    def plain(name: str) -> str:
        return " ".join(name.replace("_", " ").casefold().split())

    by_name = read_json(path, RootModel[dict[str, tuple[str, ...]]]).root
    texts = {plain(name): listed for name, listed in by_name.items()}
    rows = []
    for name in names:
        row = (" ".join(text.split()) for text in texts.get(plain(name), ()))
        rows.append(tuple(dict.fromkeys(filter(None, row))))
        if not rows[-1]:
            raise CompatbenchError(f"{path} has no text of the class '{name}'; add one")
    return tuple(rows)
