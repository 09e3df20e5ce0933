"""Result files against those of the base: nothing removed, and how far figures moved."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from compatbench.audit.method_files import PLACE, row_frame
from compatbench.audit.pull_request.git import Change
from compatbench.audit.tolerance import EPSILON, Tolerance
from compatbench.errors import CompatbenchError
from compatbench.pages.suite_page import RESULTS
from compatbench.results.store import MethodResults, check_name, read_methods


def read_base_results(change: Change, suite: str) -> Mapping[str, MethodResults]:
    """A suite's results, by method and by all transfers, as they are at the base.

    Raises:
        CompatbenchError: the base's own files are broken.
    """
    with tempfile.TemporaryDirectory(prefix="compatbench-base-") as place:
        folder = Path(place) / RESULTS / check_name(suite, "suite")
        folder.mkdir(parents=True)
        for path in change.list_base(f"{RESULTS}/{suite}"):
            name = check_name(Path(path).name, "file")
            content = change.read_base(path)
            if content is not None:
                (folder / name).write_bytes(content)
        try:
            return read_methods(folder)
        except CompatbenchError as error:
            message = str(error).replace(f"{place}/", "")
            raise CompatbenchError(f"at the base '{change.name}': {message}") from None


def compare_with_base(before: MethodResults | None, after: MethodResults | None) -> pd.DataFrame:
    """A method's rows in a suite on both sides, by place.

    Returns:
        One row for each place, with its fields, ``correct`` and ``correct_base``, ``images`` (how
        many more are right; all of them, if one side has no number), ``same_key`` (whether it is
        the same module on the same data) and ``change``: ``added``, ``removed``, ``equal``,
        ``within`` what rounding on another machine may cause, or ``beyond`` that.
    """
    old, new = (row_frame(Path(), [side] if side else []) for side in (before, after))
    both = old.merge(new, how="outer", on=PLACE, suffixes=("_base", ""), indicator=True)
    total = both["total"].fillna(both["total_base"]).fillna(1)
    unlike = (both["status"] != both["status_base"]).astype("Int64")
    both["images"] = (both["correct"] - both["correct_base"]).fillna(unlike * total)
    both["same_key"] = (both["key"] == both["key_base"]) & (both["data"] == both["data_base"])
    within = both["images"].abs() <= total.map(Tolerance(EPSILON).of)
    sides = [both["_merge"] == "right_only", both["_merge"] == "left_only"]
    both["change"] = np.select(
        [*sides, both["images"] == 0, within], ["added", "removed", "equal", "within"], "beyond"
    )
    return both.sort_values(PLACE)
