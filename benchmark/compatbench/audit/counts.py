"""Counts that must agree with each other, whatever was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from compatbench.audit.files import MethodFiles
from compatbench.audit.findings import Finding
from compatbench.data.cards import task_cards
from compatbench.errors import CompatbenchError
from compatbench.results.rows import Row

# (backbone, test set) -> images that zero-shot has right.
ZeroShot = Mapping[tuple[str, str], int]


def check_totals(files: MethodFiles) -> list[Finding]:
    """Every row counts all images of its test set."""
    findings = []
    sizes: dict[str, int | None] = {}
    for line, row in files.numbered_rows:
        size = sizes.setdefault(row.test_set, _size(row.test_set))
        if size is None:
            problem = "there is no such test set"
            findings.append(Finding(files.rows_file, problem, line, "test_set"))
        elif row.total is not None and row.total != size:
            problem = f"is not the number of test images of {row.test_set}"
            findings.append(
                Finding(files.rows_file, problem, line, "total", str(size), str(row.total))
            )
    return findings


def _size(test_set: str) -> int | None:
    try:
        return task_cards.read(test_set).counts["test"]
    except CompatbenchError:
        return None


def check_flips(files: MethodFiles) -> list[Finding]:
    """In images, and exactly: right on the target − right on the source = positive − negative."""
    sources = {
        (*_fit(row), row.test_set): row
        for row in files.results.rows
        if row.backbone == row.source and row.status == "ok"
    }
    findings = []
    for line, row in files.numbered_rows:
        before = sources.get((*_fit(row), row.test_set))
        if before is not None and row.negative_flips is not None:
            findings += _check_flips(files.rows_file, line, before, row)
    return findings


def _check_flips(file: str, line: int, before: Row, after: Row) -> list[Finding]:
    was, now, total = before.correct, after.correct, after.total
    negative, positive, other = (
        after.negative_flips,
        after.positive_flips,
        after.inconsistent_errors,
    )
    assert was is not None
    assert now is not None
    assert total is not None
    assert negative is not None
    assert positive is not None
    assert other is not None
    if now - was != positive - negative:
        problem = "the flips do not lead from the source's correct answers to these"
        expected = f"correct = {was} + {positive} - {negative} = {was + positive - negative}"
        return [Finding(file, problem, line, "negative_flips", expected, f"correct = {now}")]
    wrong_on_both = total - was - positive
    if negative > was or other > wrong_on_both:
        problem = "more answers have flipped than the source's counts allow"
        field, most = (
            ("negative_flips", was) if negative > was else ("inconsistent_errors", wrong_on_both)
        )
        found = str(negative if negative > was else other)
        return [Finding(file, problem, line, field, f"at most {most}", found)]
    return []


def check_fits(files: MethodFiles) -> list[Finding]:
    """All rows of one fit tell the same of its module."""
    findings = []
    first: dict[str, tuple[int, Row]] = {}
    for line, row in files.numbered_rows:
        before_line, before = first.setdefault(row.key, (line, row))
        for field in ("parameters", "module_bytes"):
            expected, found = getattr(before, field), getattr(row, field)
            if expected != found:
                problem = f"is not that of the same module in line {before_line}"
                findings.append(
                    Finding(files.rows_file, problem, line, field, str(expected), str(found))
                )
    return findings


def check_zero_shot(
    methods: Iterable[MethodFiles], recomputed: ZeroShot, tolerance: Mapping[str, int]
) -> list[Finding]:
    """Zero-shot does not depend on the method: every row has the count that was computed again.

    Where none was, it is that of most rows.

    Args:
        tolerance: test set -> images that a count may differ by.
    """
    methods = list(methods)
    votes: dict[tuple[str, str], Counter[int]] = {}
    for files in methods:
        for row in files.results.rows:
            if row.zero_shot_correct is not None:
                where = (row.backbone, row.test_set)
                votes.setdefault(where, Counter())[row.zero_shot_correct] += 1
    findings = []
    for files in methods:
        for line, row in files.numbered_rows:
            if row.zero_shot_correct is None:
                continue
            where = (row.backbone, row.test_set)
            [(common, _)] = votes[where].most_common(1)
            found = row.zero_shot_correct
            file = files.rows_file
            if found != common:
                problem = f"{row.backbone} has another zero-shot count on {row.test_set} elsewhere"
                findings.append(
                    Finding(file, problem, line, "zero_shot_correct", str(common), str(found))
                )
            expected = recomputed.get(where, found)
            if abs(found - expected) > tolerance.get(row.test_set, 0):
                problem = f"zero-shot of {row.backbone} on {row.test_set} was computed again"
                findings.append(
                    Finding(file, problem, line, "zero_shot_correct", str(expected), str(found))
                )
    return findings


def _fit(row: Row) -> tuple[str, str, str, int, int]:
    return (row.transfer, row.task, row.source, row.shots, row.seed)
