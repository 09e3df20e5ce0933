"""What was measured of stored indexes: ``results/retrieval/<suite>.csv``, with a JSON of facts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

import compatbench
from compatbench.errors import CompatbenchError, first_line
from compatbench.files.atomic import write_atomic
from compatbench.results.store import RESULTS, RETRIEVAL, check_name

FIGURES = ("recall@1", "recall@5", "recall@10", "map")  # in percent
COLUMNS = ("source", "target", "gallery", "queries", "images", "asked", "way", "pairs", "seeds")
COLUMNS += FIGURES
POOLED = "all"  # the gallery of all test sets
OLD, CEILING = "old model", "re-encoded"  # beside the ways: no upgrade, and all of its work


def write_retrieval(out: Path, suite: str, frame: pd.DataFrame, about: dict[str, Any]) -> Path:
    """Writes the rows and facts of one suite, and gives the path of the rows."""
    path = out / RESULTS / RETRIEVAL / f"{check_name(suite, 'suite')}.csv"
    facts = json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomic(path.with_suffix(".json"), f"{facts}\n".encode())
    text = frame.to_csv(index=False, float_format="%.4f", lineterminator="\n")
    write_atomic(path, text.encode())
    return path


def read_retrieval(folder: Path) -> dict[str, tuple[pd.DataFrame, dict[str, Any]]]:
    """Rows and facts by suite, of a folder ``results/retrieval``; none, if it does not exist."""
    found = {}
    for path in sorted(folder.glob("*.csv")):
        try:
            frame = pd.read_csv(path)
            about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise CompatbenchError(f"{path} cannot be read: {first_line(error)}") from None
        if missing := [name for name in COLUMNS if name not in frame]:
            raise CompatbenchError(
                f"{path}: there is no column '{missing[0]}'; run 'compatbench retrieve' again"
            )
        found[path.stem] = frame, about
    return found


def find_expected(source: str, target: str, way: str, pairs: int) -> dict[str, Any]:
    """The recall of an upgrade through a way as it was measured, with the ceiling beside it.

    Of numbers of pairs that were measured, the nearest that is not above ``pairs`` is taken, or
    the least. Results in this folder come before those that the project has. Empty if the
    upgrade was never measured: figures of other models are no figures of these.
    """
    for folder in _folders():
        for suite, (frame, _) in read_retrieval(folder).items():
            of = frame.loc[(frame["source"] == source) & (frame["target"] == target)]
            of = of.loc[of["gallery"] == POOLED]
            own = of.loc[of["way"] == way]
            if not own.empty:
                below = own.loc[own["pairs"] <= pairs]
                nearest = own["pairs"].min() if below.empty else below["pairs"].max()
                own = own.loc[own["pairs"] == nearest]
                expected: dict[str, Any] = {"suite": suite, "images": int(own["images"].iloc[0])}
                expected["pairs"] = int(nearest)
                for name, rows in (("ported", own), (CEILING, of.loc[of["way"] == CEILING])):
                    expected[name] = {
                        row["queries"]: {one: round(row[one], 1) for one in FIGURES}
                        for row in rows.to_dict("records")
                    }
                return expected
    return {}


def _folders() -> Iterator[Path]:
    yield Path(RESULTS, RETRIEVAL)
    package = Path(compatbench.__path__[0])
    installed = package / RETRIEVAL
    yield installed if installed.is_dir() else package.parents[1] / RESULTS / RETRIEVAL
