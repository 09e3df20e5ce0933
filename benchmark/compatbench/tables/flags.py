"""Implausible results in words, until a maintainer has looked at them."""

from __future__ import annotations

from compatbench.data.cards import COPIED
from compatbench.messages import one_line
from compatbench.results.plausibility import Flag, find_implausible
from compatbench.tables.numbers import percent
from compatbench.tables.suite_page import SuitePage

FLAG = "Implausible until a maintainer has looked"


def list_flags(page: SuitePage) -> dict[str, list[str]]:
    """Return a sentence for each implausible result of a suite, by the names of methods."""
    flags = find_implausible(
        page.results, page.expected, page.most_shots, page.card.reviewed, page.configs
    )
    sentences: dict[str, list[str]] = {}
    for flag in flags:
        sentences.setdefault(flag.method, []).append(_write(flag, page))
    return sentences


def _write(flag: Flag, page: SuitePage) -> str:
    transfer = "" if flag.transfer == COPIED else f" ({flag.transfer})"
    where = f"{one_line(flag.title)}{transfer}"
    if flag.upgrade is not None:
        where += f", {one_line(page.path_title(flag.upgrade))}"
    if flag.what == "lead":
        over = one_line(flag.over) or "zero-shot"
        best = f"the best of its kind, {over}" if flag.over else over
        return f"{where}: the gain is {percent(flag.amount)} points above that of {best}."
    if flag.seeds is not None:
        first, second = flag.seeds
        return f"{where}: seeds {first} and {second} have the same counts in every row."
    probe = f"a linear probe with all training images ({percent(flag.amount)} %)"
    return f"{where}: it is more accurate on the old model than {probe}."
