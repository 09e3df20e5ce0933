"""Every page and command gives the same verdict, with the same number, on every module."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

import compatbench as cb
from compatbench.extras.advice.advise import advise
from compatbench.extras.advice.answers import answer_table
from compatbench.results.choice import judge_effect
from compatbench.results.estimate import Interval
from compatbench.results.result_files import ResultFiles
from compatbench.tables.numbers import signed
from compatbench.tables.pages.leaderboard import render_leaderboard, render_summary
from compatbench.tables.pages.method_pages import list_verdicts
from compatbench.tables.pages.site_data import describe_survival
from compatbench.tables.suite_page import SuitePage, published_pages
from compatbench.tables.survival_tables import read_survival
from compatbench.tables.table import records

REPOSITORY = Path(__file__).parents[2]
HEADS = {
    "gains over zero-shot": "gains",
    "we cannot tell": "cannot tell",
    "loses: drop it": "loses",
    "cannot be attached": "cannot be attached",
    "not ranked": "not ranked",
}
GAIN = r"[+-][\d.]+|0\.0"


class Answer(NamedTuple):
    """What somebody with a module of this method reads about this kind of upgrade."""

    kind: str
    title: str
    verdict: str
    gain: str


@pytest.fixture(scope="module")
def page() -> SuitePage:
    return published_pages(ResultFiles(REPOSITORY))[0]


@pytest.fixture(scope="module")
def expected(page: SuitePage) -> set[Answer]:
    """Return the verdicts of the frame that the tests compare everything with."""
    answers = set()
    for row in records(read_survival(page)):
        gain = "" if row["gain"] is None else signed(row["gain"])
        answers.add(Answer(row["kind"], row["title"], row["verdict"], gain))
    assert len(answers) > 100
    return answers


def read_table(text: str, head: str) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the rows of the first Markdown table that begins with ``head``."""
    lines = text[text.index(f"| {head} |") :].split("\n\n")[0].splitlines()
    rows = []
    for line in lines:
        plain = re.sub(r"\[([^]]*)\]\[[^]]*\]", r"\1", line).replace("\N{NO-BREAK SPACE}", " ")
        plain = plain.replace("**", "")
        rows.append([cell.strip() for cell in plain[1:-1].split("|")])
    return rows[0][1:], rows[2:]


def split(pattern: str, text: str) -> tuple[str, ...]:
    """Return the groups of a pattern that the whole text matches."""
    found = re.fullmatch(pattern, text)
    assert found is not None
    return tuple(group or "" for group in found.groups())


def test_the_readme_gives_the_verdicts(page: SuitePage, expected: set[Answer]) -> None:
    kinds, rows = read_table(render_summary(page), "The module")
    found = set()
    for head, *cells in rows:
        verdict = HEADS[head]
        for kind, cell in zip(kinds, cells, strict=True):
            for entry in cell.split(" · "):
                title, gain = split(rf"(.*?)(?: with words)?(?: ({GAIN}))?", entry)
                found.add(Answer(kind, title, verdict, gain))
    assert found == expected


def test_the_leaderboard_gives_the_verdicts(page: SuitePage, expected: set[Answer]) -> None:
    kinds, rows = read_table(render_leaderboard([page]), "Method")
    found = set()
    for title, *cells in rows:
        for kind, cell in zip(kinds, cells, strict=True):
            verdict, gain = split(rf"([a-z ]+?)(?: ({GAIN}) \(.*\))?", cell)
            found.add(Answer(kind, title, verdict, gain))
    assert found == expected


def test_the_site_gives_the_verdicts(page: SuitePage, expected: set[Answer]) -> None:
    shown = describe_survival(page)
    found = set()
    for row in shown["rows"].values():
        for kind, cell in zip(shown["kinds"], row["cells"], strict=True):
            found.add(Answer(kind, row["title"], cell["verdict"], cell["gain"]))
    assert found == expected


def test_method_pages_give_the_verdicts(page: SuitePage, expected: set[Answer]) -> None:
    by_method = list_verdicts(page)
    titles = dict(read_survival(page)[["method", "title"]].to_numpy())
    found = set()
    for method, verdicts in by_method.items():
        for kind, (verdict, sentence) in zip(page.kinds, verdicts, strict=True):
            title = titles[method]
            assert title.rstrip(" †‡") in sentence
            points = re.search(r"(?:loses |gains |\()([+-]?[\d.]+) points", sentence)
            gain = points.group(1) if points else ""
            if verdict in ("gains", "loses"):
                gain = {"gains": "+", "loses": "-"}[verdict] + gain
            found.add(Answer(kind, title, verdict, gain))
    assert found == expected


def test_python_gives_the_gains(page: SuitePage, expected: set[Answer]) -> None:
    results = cb.results("mini", out=REPOSITORY)
    found = set()
    for kind, upgrade in page.kinds.items():
        for transfer in ("copied", "words"):
            for row in records(results.ranking(*upgrade, transfer=transfer)):
                if row["gain"] is not None:
                    found.add((kind, row["title"], signed(row["gain"])))
    assert {(each.kind, each.title, each.gain) for each in expected if each.gain} <= found


def test_advice_gives_the_verdicts(page: SuitePage, expected: set[Answer]) -> None:
    """What ``advise`` shows of an untouched module is its verdict; *keep* needs one that gains."""
    told = advise("mini", out=REPOSITORY)
    kinds = {upgrade: kind for kind, upgrade in page.kinds.items()}
    frame = read_survival(page)
    ranked = frame[frame["verdict"] != "not ranked"]
    titles = dict(ranked[["method", "title"]].to_numpy())
    verdicts = {}
    for row in records(told.frame):
        verdicts[row["source"], row["target"], row["method"]] = row["verdict"]
    found = set()
    for row in records(told.options[told.options["option"] == "copied"]):
        method = row["method"]
        upgrade = row["source"], row["target"]
        if method not in titles or upgrade not in kinds:
            continue
        gain = ""
        shown = "cannot be attached"
        if not row["reason"]:
            tasks = len(page.expected.tasks)
            shown = judge_effect(Interval(row["gain"], row["gain_low"], row["gain_high"], tasks))
            gain = signed(row["gain"])
        found.add(Answer(kinds[upgrade], titles[method], shown, gain))
        verdict = verdicts[*upgrade, method]
        if verdict == "keep":
            assert shown == "gains"
        if shown == "gains":
            assert verdict != "zero-shot"
    assert found == {answer for answer in expected if answer.verdict != "not ranked"}


def test_the_site_and_the_readme_try_the_options_of_the_leaderboard_first(page: SuitePage) -> None:
    """For a new embedding space they named different options, and for the old model kept."""
    expected = []
    for _, held, option, accuracy, *_ in answer_table(page).rows:
        expected.append([held.text, option.text.replace("*", ""), accuracy.text])
    assert len(expected) > 4
    _, rows = read_table(render_summary(page), "The upgrade")
    readme = []
    for _, held, option, accuracy in rows:
        readme.append([held, option.replace("*", ""), accuracy.split(", ")[0]])
    assert readme == expected
    [answers] = describe_survival(page)["answers"]
    site = []
    for row in answers.partition("<tbody>")[2].split("<tr>")[1:]:
        _, held, option, accuracy, *_ = re.split("<td[^>]*>", row)[1:]
        site.append([re.sub("<[^>]*>", "", cell).strip() for cell in (held, option, accuracy)])
    assert site == expected
