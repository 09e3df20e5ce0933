"""What pages say of stored indexes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from compatbench.extras.indexes.retrieval_files import read_retrieval
from compatbench.extras.indexes.retrieval_tables import retrieval_table
from compatbench.results.result_files import RESULTS, RETRIEVAL
from compatbench.tables.pages.sections import Section
from compatbench.tables.suite_page import SuitePage


def read_rows(page: SuitePage) -> pd.DataFrame:
    """What was measured of stored indexes of a suite's tasks; empty if nothing was."""
    measured = {} if page.out is None else read_retrieval(page.out / RESULTS / RETRIEVAL)
    frame, _ = measured.get(page.name, (pd.DataFrame(), None))
    return frame


INDEXES = Section(
    page="leaderboard",
    place=30,
    title="Stored indexes",
    applies=lambda page: not read_rows(page).empty,
    template=str(Path(__file__).parent / "indexes.md.jinja"),
    functions={"indexes_table": lambda page: retrieval_table(read_rows(page))},
    on_site=True,
)
