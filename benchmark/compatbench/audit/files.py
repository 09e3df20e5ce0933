"""The files of ``results/<suite>/``: each is of a method, whole, and written by ``run``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compatbench.audit.findings import Finding
from compatbench.errors import CompatbenchError
from compatbench.results.rows import Cost, Row, write_csv
from compatbench.results.store import MethodResults, about_text, read_method

COST, ROWS, ABOUT = ".cost.csv", ".csv", ".json"
HEADER_LINES = 1


@dataclass(frozen=True)
class MethodFiles:
    """A method's results, with the files they were read from.

    Attributes:
        folder: ``results/<suite>``.
    """

    folder: Path
    results: MethodResults

    @property
    def name(self) -> str:
        return self.results.info.name

    @property
    def rows_file(self) -> str:
        return str(self.folder / f"{self.name}{ROWS}")

    @property
    def cost_file(self) -> str:
        return str(self.folder / f"{self.name}{COST}")

    @property
    def about_file(self) -> str:
        return str(self.folder / f"{self.name}{ABOUT}")

    @property
    def numbered_rows(self) -> list[tuple[int, Row]]:
        """Every row with its line in the file."""
        return list(enumerate(self.results.rows, HEADER_LINES + 1))

    @property
    def numbered_costs(self) -> list[tuple[int, Cost]]:
        """Every line of the cost file with its number."""
        return list(enumerate(self.results.costs, HEADER_LINES + 1))


def read_files(folder: Path) -> tuple[list[MethodFiles], list[Finding]]:
    """Reads a suite's folder; a file that is broken is named, and the others are read."""
    methods, findings = [], []
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        return [], [Finding(str(folder), f"cannot be read: {error.strerror}")]
    names = [path.name for path in paths]
    for path in paths:
        method, kind = _split_name(path.name)
        if path.name.startswith("."):
            continue  # remains of an interrupted write, or the system's
        if kind != ROWS:
            if not kind or f"{method}{ROWS}" not in names:
                findings.append(Finding(str(path), "no results of a method belong to this file"))
            continue
        try:
            found = MethodFiles(folder, read_method(folder, method))
        except CompatbenchError as error:
            findings.append(_broken(str(error), path))
            continue
        methods.append(found)
        findings += _rewritten(found)
    return methods, findings


def _split_name(name: str) -> tuple[str, str]:
    """A file's method and kind; no kind, if it is none of a method's."""
    for kind in (COST, ROWS, ABOUT):
        if name.endswith(kind):
            return name.removesuffix(kind), kind
    return name, ""


def _broken(message: str, path: Path) -> Finding:
    """What the reader says of a file it refuses; the message names the place itself."""
    for file in (path, path.with_suffix(COST), path.with_suffix(ABOUT)):
        prefix = f"{file}:"
        if message.startswith(prefix):
            number, _, rest = message.removeprefix(prefix).partition(":")
            if number.isdecimal():
                return Finding(str(file), rest.strip(), int(number))
            return Finding(str(file), message.removeprefix(prefix).strip())
    return Finding(str(path), message)


def _rewritten(files: MethodFiles) -> list[Finding]:
    """Files whose content is valid, but not as it is written: edited, or out of order."""
    rows = sorted(files.results.rows, key=lambda row: row.order)
    costs = sorted(files.results.costs, key=lambda cost: cost.order)
    findings = []
    for file, text in (
        (files.rows_file, write_csv(rows, Row)),
        (files.cost_file, write_csv(costs, Cost)),
        (files.about_file, about_text(files.results)),
    ):
        if not Path(file).is_file():
            findings.append(Finding(file, "is missing; what the rows cost stands there"))
            continue
        found = Path(file).read_bytes().split(b"\n")
        expected = text.encode().split(b"\n")
        if found != expected:
            pairs = zip(found, expected, strict=False)
            differ = [n for n, (a, b) in enumerate(pairs, 1) if a != b]
            line = differ[0] if differ else min(len(found), len(expected)) + 1
            findings.append(Finding(file, "is not as 'compatbench run' writes it", line))
    return findings
