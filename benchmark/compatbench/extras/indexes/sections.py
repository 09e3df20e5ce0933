"""What pages say of stored indexes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from compatbench.extras.indexes.retrieval_files import read_retrieval
from compatbench.extras.indexes.retrieval_tables import retrieval_table
from compatbench.results.result_files import RESULTS, RETRIEVAL
from compatbench.tables.pages.sections import Section
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Table


def read_rows(page: SuitePage) -> pd.DataFrame | None:
    """What was measured of stored indexes of a suite's tasks; None if nothing was."""
    if page.out is None:
        return None
    frame, _ = read_retrieval(page.out / RESULTS / RETRIEVAL).get(page.name, (None, None))
    return frame


def indexes_table(page: SuitePage) -> Table:
    """The table of a suite that has such rows."""
    rows = read_rows(page)
    assert rows is not None
    return retrieval_table(rows)


INDEXES = Section(
    page="leaderboard",
    place=30,
    title="Stored indexes",
    applies=lambda page: read_rows(page) is not None,
    template=str(Path(__file__).parent / "indexes.md.jinja"),
    functions={"indexes_table": indexes_table},
    on_site=True,
)
