"""The audit of ``results/retrieval/``: are the files what ``compatbench retrieve`` writes?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from compatbench.errors import CompatbenchError
from compatbench.extras.audit.findings import Finding, compare_file
from compatbench.extras.indexes.gallery_rows import KEY
from compatbench.extras.indexes.retrieval_files import read_file, show_facts, show_rows

WRITTEN = "is not as 'compatbench retrieve' writes it"


def check_files(folder: Path, suites: Sequence[str] | None) -> Iterator[Finding]:
    """What of a folder's rows and facts cannot be, without any model."""
    for path in sorted(folder.glob("*.csv")):
        if suites and path.stem not in suites:
            continue
        try:
            rows, about = read_file(path)
            text, facts = show_rows(rows.drop_duplicates([*KEY])), show_facts(about)
        except CompatbenchError as error:
            yield Finding(str(path), str(error))
            continue
        yield from compare_file(path, text, WRITTEN)
        yield from compare_file(path.with_suffix(".json"), facts, WRITTEN)
