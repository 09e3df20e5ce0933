"""What was measured of stored indexes: ``results/retrieval/<suite>.csv``, with a JSON of facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.files.kinds import require
from compatbench.files.project_folders import shipped_results
from compatbench.messages import first_line
from compatbench.results.result_files import RESULTS, RETRIEVAL, check_name

KEY = ("source", "target", "gallery", "queries", "way", "pairs")
# Columns in percent, and the measures that they hold: of images, Recall@k is a success.
FIGURES = {f"recall@{k}": f"success@{k}" for k in (1, 5, 10)} | {"map": "map"}
COLUMNS = ("source", "target", "gallery", "queries", "images", "asked", "way", "pairs", "seeds")
COLUMNS += tuple(FIGURES)
POOLED = "all"  # the gallery of all test sets
QUERIES = ("texts", "images", "captions")
OLD, CEILING = "old model", "re-encoded"  # beside the ways: no upgrade, and all of its work
# The order of the ways in a file, and in pictures.
ORDER = (OLD, "copied", "words", "images", "low-rank", "ridge", CEILING)
Measured = tuple[pd.DataFrame, dict[str, Any]]  # the rows and the facts of a suite


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
    places = {"way": ORDER, "queries": QUERIES}

    def place(column: pd.Series) -> pd.Series:
        if column.name == "gallery":
            return column.replace(POOLED, "\uffff")  # the last
        order = places.get(str(column.name))
        return column.map(order.index) if order else column

    by = ["source", "target", "way", "pairs", "gallery", "queries"]
    rows = frame.sort_values(by, kind="stable", key=place)
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
        facts = f"{path.with_suffix('.json')} holds no facts of 'compatbench study retrieve'"
        raise CompatbenchError(f"{facts}; delete it and {path.name}, or use --out") from None


def read_retrieval(folder: Path) -> dict[str, Measured]:
    """Rows and facts by suite, of a folder ``results/retrieval``; none, if it does not exist."""
    return {path.stem: read_file(path) for path in sorted(folder.glob("[!.]*.csv"))}


def read_file(path: Path) -> Measured:
    """The rows of one suite, and the facts of the JSON beside them."""
    try:
        frame = pd.read_csv(path)
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CompatbenchError(f"{path} cannot be read: {first_line(error)}") from None
    if missing := [name for name in COLUMNS if name not in frame]:
        raise CompatbenchError(
            f"{path}: there is no column '{missing[0]}'; run 'compatbench study retrieve' again"
        )
    return frame, about


def find_expected(source: str, target: str, way: str, pairs: int) -> dict[str, Any]:
    """The recall of an upgrade through a way as it was measured, with the ceiling beside it.

    Of numbers of pairs that were measured, the nearest that is not above ``pairs`` is taken, or
    the least. Results in this folder come before those that the project has. Empty if the
    upgrade was never measured: figures of other models are no figures of these.
    """
    for folder in (Path(RESULTS, RETRIEVAL), shipped_results(RETRIEVAL)):
        for suite, (frame, _) in read_retrieval(folder).items():
            of_upgrade = (frame["source"] == source) & (frame["target"] == target)
            pooled = frame.loc[of_upgrade & (frame["gallery"] == POOLED)]
            ported = pooled.loc[pooled["way"] == way]
            if ported.empty:
                continue
            enough = ported.loc[ported["pairs"] <= pairs, "pairs"]
            nearest = ported["pairs"].min() if enough.empty else enough.max()
            ported = ported.loc[ported["pairs"] == nearest]
            again = pooled.loc[pooled["way"] == CEILING]
            recall = {
                name: rows.set_index("queries")[[*FIGURES]].map(round, ndigits=1).to_dict("index")
                for name, rows in (("ported", ported), (CEILING, again))
            }
            images = int(ported["images"].iloc[0])
            return {"suite": suite, "images": images, "pairs": int(nearest), **recall}
    return {}


def make_again(folder: Path) -> dict[Path, tuple[bytes, str]]:
    """For the audit: what a folder's files must hold, and what is wrong if they do not."""
    why = "is not as 'compatbench study retrieve' writes it"
    made = {}
    for suite, (rows, about) in read_retrieval(folder).items():
        texts = {".csv": show_rows(rows.drop_duplicates([*KEY])), ".json": show_facts(about)}
        made |= {folder / f"{suite}{end}": (text.encode(), why) for end, text in texts.items()}
    return made
