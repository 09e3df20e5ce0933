"""A finding of an audit: a place in a file, what should stand there, and what does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from compatbench.messages import one_line

SHOWN = 3  # findings of one kind in one file, before the rest are counted


@dataclass(frozen=True)
class Finding:
    """Something in a results folder that this checkout would not have written."""

    file: str  # or folder
    problem: str
    line: int = 0  # 1 is the first; 0 means the file as a whole
    field: str = ""  # a column, or a dotted name in a JSON file; empty for a line as a whole
    expected: str = ""  # empty where the problem says it all
    found: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        field = f"'{self.field}': " if self.field else ""
        values = f"; expected {self.expected}, found {self.found}" if self.expected else ""
        return one_line(f"{place}: {field}{self.problem}{values}", longest=600)


def list_findings(wrong: pd.DataFrame, problem: str, field: str, suffix: str) -> list[Finding]:
    """Return a finding for each row, whose field should be as the column with the suffix."""
    columns = ["file", "line", f"{field}{suffix}", field]
    findings = []
    for file, line, expected, stored in wrong[columns].itertuples(index=False):
        findings.append(Finding(file, problem, int(line), field, str(expected), str(stored)))
    return findings


def compare_file(
    path: Path, expected: bytes, problem: str, read: Callable[[Path], bytes] = Path.read_bytes
) -> list[Finding]:
    """Return the first line in which a file is not as expected; none if all bytes are."""
    try:
        content = read(path)
        if content == expected:
            return []
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        return [Finding(str(path), f"{problem}: {error}")]
    lines = zip_longest(expected.decode().split("\n"), text.split("\n"))
    for number, (here, there) in enumerate(lines, 1):
        if here != there:
            return [Finding(str(path), problem, number, "", _show_line(here), _show_line(there))]
    return []


def _show_line(line: str | None) -> str:
    """Return a line for a message; None is one that a file does not have."""
    return "nothing" if line is None else line.strip()


def summarise(findings: Iterable[Finding]) -> list[str]:
    """Return a line for each finding; of many alike in one file, the first and how many more."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        group = finding.file, finding.field, finding.problem
        groups.setdefault(group, []).append(finding)
    lines = []
    for alike in groups.values():
        lines += [str(finding) for finding in alike[:SHOWN]]
        if len(alike) > SHOWN:
            lines.append(f"{alike[0].file}: and {len(alike) - SHOWN} more like these")
    return lines
