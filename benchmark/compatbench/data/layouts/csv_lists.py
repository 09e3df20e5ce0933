"""Scans lists of images: CSV and TSV files with a column of paths and one of labels."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compatbench.data.images.dataset_files import read_bytes, unreadable
from compatbench.data.layouts.listing import COLUMNS, Listing, check_inside
from compatbench.errors import CompatbenchError
from compatbench.messages import first_line

if TYPE_CHECKING:
    import pandas as pd

# What people call the columns of a list and the splits, in small letters.
_PATHS = "path file filename file_name filepath file_path image image_path img"
_LABELS = "label class classname class_name category target species"
_SPLITS = "split subset set partition"
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val"}
SPLIT_NAMES |= {"validation": "val", "dev": "val", "test": "test", "testing": "test"}
SPLIT_NAMES |= {"eval": "test"}


def scan_list(path: Path, folder: Path) -> Listing:
    """The rows of a list of images below ``folder``; a column of splits is not needed.

    Raises:
        CompatbenchError: a broken list, a path that leaves the folder, a label without a name, or
            an unknown split.
    """
    table = read_csv(path)
    if (columns := choose_columns(table.columns)) is None:
        raise CompatbenchError(
            f"{path}:1: the columns are {','.join(table.columns)}; call that of the images 'path' "
            "and that of their classes 'label'"
        )
    frame = table.reindex(columns=[*columns], fill_value="").set_axis([*COLUMNS], axis=1)
    splits = SPLIT_NAMES if columns[2] else {"": ""}
    rows = zip(frame.index, frame["path"], frame["label"], frame["split"], strict=True)
    for line, image, label, split in rows:
        try:
            check_inside(image)
        except ValueError as error:
            fix = f"make it one below {folder}"
            raise CompatbenchError(f"{path}:{line}: {error}; {fix}") from None
        if not label or not label.isprintable():
            what = f"label {label!r} of {image!r} is not a class's name"
            raise CompatbenchError(f"{path}:{line}: {what}")
        if split.lower() not in splits:
            what = f"split {split!r} is none of {', '.join(splits)}"
            raise CompatbenchError(f"{path}:{line}: {what}")
    frame["split"] = [splits[split.lower()] for split in frame["split"]]
    return Listing(f"the list {path.name}", folder, frame, table=path)


def choose_columns(names: Iterable[str]) -> tuple[str, str, str] | None:
    """The columns of paths, labels and splits (or ''); None if there are no paths or labels."""
    by_name = {name.lower(): name for name in names}
    path, label, split = (
        next((by_name[name] for name in known.split() if name in by_name), "")
        for known in (_PATHS, _LABELS, _SPLITS)
    )
    return (path, label, split) if path and label else None


def read_csv(path: Path, most: int | None = None) -> pd.DataFrame:
    """The text of a CSV file, or a TSV file; the index has the line of each row.

    Args:
        most: lines to read; by default all.

    Raises:
        CompatbenchError: no text, no rows, or a row that is longer than the first.
    """
    import pandas as pd

    separator = "\t" if path.suffix == ".tsv" else ","
    options: Any = {"header": None, "dtype": str, "keep_default_na": False, "nrows": most}
    content = io.BytesIO(read_bytes(path))
    try:
        table = pd.read_csv(
            content, sep=separator, encoding="utf-8-sig", skip_blank_lines=False, **options
        )
    except ValueError as error:  # as those of pandas are
        why = first_line(error).removeprefix("Error tokenizing data. C error: ")
        raise unreadable(path, ValueError(why)) from None
    table = table.set_axis(table.index + 1).apply(lambda column: column.str.strip())
    header, rows = [*table.iloc[0]], table.iloc[1:]
    rows = rows[(rows != "").any(axis=1)].set_axis(header, axis=1)
    if rows.empty:
        raise CompatbenchError(f"{path} lists no image")
    return rows.loc[:, ~rows.columns.duplicated(keep="last")]
