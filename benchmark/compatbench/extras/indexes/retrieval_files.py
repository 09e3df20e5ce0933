"""What was measured of stored indexes: ``results/retrieval/<suite>.csv``, with a JSON of facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.gallery_rows import (
    CEILING,
    COLUMNS,
    FIGURES,
    KEY,
    OLD,
    POOLED,
    QUERIES,
)
from compatbench.files.atomic import write_atomic
from compatbench.files.kinds import require
from compatbench.messages import first_line
from compatbench.results.result_files import RESULTS, RETRIEVAL, check_name, shipped_folder

# The order of the ways in a file, and in pictures.
ORDER = (OLD, "copied", "words", "images", "low-rank", "ridge", CEILING)


def write_retrieval(out: Path, suite: str, frame: pd.DataFrame, about: dict[str, Any]) -> Path:
    """Adds rows and facts to those of a suite, and gives the path of the rows.

    A row takes the place of an older one of the same upgrade, gallery, queries, way and pairs,
    but a gallery of fewer images never that of more: ``--tasks`` may leave out some of the pooled
    one. The same rows give the same bytes, in whatever order they came.
    """
    path = out / RESULTS / RETRIEVAL / f"{check_name(suite, 'suite')}.csv"
    if require(path).exists():
        old, facts = read_file(path)
        frame = pd.concat([old.reindex(columns=[*COLUMNS]), frame], ignore_index=True)
        about = _join_facts(path, facts, about)
    frame = frame.sort_values("images", kind="stable").drop_duplicates(KEY, keep="last")
    for end, text in {".json": show_facts(about), ".csv": show_rows(frame)}.items():
        write_atomic(path.with_suffix(end), text.encode())
    return path


def show_rows(frame: pd.DataFrame) -> str:
    """Rows as a file has them: sorted by upgrade, way, pairs, gallery and queries."""
    last = frame.assign(
        way=frame["way"].map({way: number for number, way in enumerate(ORDER)}),
        queries=frame["queries"].map({name: number for number, name in enumerate(QUERIES)}),
        pooled=frame["gallery"] == POOLED,
    )
    order = ["source", "target", "way", "pairs", "pooled", "gallery", "queries"]
    rows = frame.loc[last.sort_values(order, kind="stable").index]
    return rows.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def show_facts(about: dict[str, Any]) -> str:
    return json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _join_facts(path: Path, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The commands in lines, all tasks and processors; of costs the newer ones."""
    cost = "cpu_seconds_per_million"
    try:
        encoded = old[cost]["encoded"] | new[cost]["encoded"]
        return {
            "command": "\n".join(sorted({*old["command"].splitlines(), new["command"]})),
            cost: {"encoded": encoded, "mapped": new[cost]["mapped"]},
            "processor": ", ".join(sorted({*old["processor"].split(", "), new["processor"]})),
            "tasks": sorted({*old["tasks"], *new["tasks"]}),
        }
    except (LookupError, TypeError, AttributeError):
        facts = f"{path.with_suffix('.json')} holds no facts of 'compatbench retrieve'"
        raise CompatbenchError(f"{facts}; delete it and {path.name}, or use --out") from None


def read_retrieval(folder: Path) -> dict[str, tuple[pd.DataFrame, dict[str, Any]]]:
    """Rows and facts by suite, of a folder ``results/retrieval``; none, if it does not exist."""
    return {path.stem: read_file(path) for path in sorted(folder.glob("*.csv"))}


def read_file(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of one suite, and the facts of the JSON beside them."""
    try:
        frame = pd.read_csv(path)
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CompatbenchError(f"{path} cannot be read: {first_line(error)}") from None
    if missing := [name for name in COLUMNS if name not in frame]:
        raise CompatbenchError(
            f"{path}: there is no column '{missing[0]}'; run 'compatbench retrieve' again"
        )
    return frame, about


def find_expected(source: str, target: str, way: str, pairs: int) -> dict[str, Any]:
    """The recall of an upgrade through a way as it was measured, with the ceiling beside it.

    Of numbers of pairs that were measured, the nearest that is not above ``pairs`` is taken, or
    the least. Results in this folder come before those that the project has. Empty if the
    upgrade was never measured: figures of other models are no figures of these.
    """
    for folder in (Path(RESULTS, RETRIEVAL), shipped_folder(RETRIEVAL)):
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
