"""Accuracies that papers and repositories publish.

They are in ``results/published/*.csv``, one per line with its source. The README there describes
the columns.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import shipped_results
from compatbench.messages import first_line
from compatbench.results.result_files import PUBLISHED


def read_published() -> pd.DataFrame:
    """Return every published accuracy, in percent, with the other columns of the files."""
    return _read_folder(shipped_results(PUBLISHED))


@cache
def _read_folder(folder: Path) -> pd.DataFrame:
    counts = dict.fromkeys(("shots", "seeds", "images", "classes"), "Int64")
    try:
        frames = [pd.read_csv(path) for path in sorted(folder.glob("*.csv"))]
        return pd.concat(frames, ignore_index=True).astype(counts)
    except (ValueError, KeyError, OSError) as error:
        raise CompatbenchError(f"{folder} cannot be read: {first_line(error)}") from None
