"""The page: what it says, that nothing in a result can change its markup, and its commands."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from command_line import output_of
from figure_pages import HOSTILE, hostile_page, info, long_page, method, small_page
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import lines_of, make_method, make_row, refuse, with_more

from compatbench.errors import CompatbenchError, CompatbenchWarning, one_line
from compatbench.pages.figures.plan import plan_figures
from compatbench.pages.html_report import all_boards, render_report, report_pages
from compatbench.pages.suite_page import SuitePage
from compatbench.results.store import write_results


class Reader(HTMLParser):
    """Elements, attributes and texts of a page, as a browser would tell them apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.raw:
            self.raw[tag].append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem in self.raw:
            self.raw[self.cdata_elem][-1] += data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def rows(self) -> list[list[str]]:
        """The boards' cells, as the script gets them."""
        return [
            [cell[0] for cell in row["cells"]]
            for board in json.loads(self.raw["script"][0])
            for row in board["rows"]
        ]


def read(*pages: SuitePage, figures: bool = False) -> Reader:
    drawings = plan_figures(pages) if figures else []
    svg = {one.name: one.render() for one in drawings if not one.missing}
    return Reader(render_report(pages, drawings, svg))


@pytest.fixture(scope="module")
def long() -> Reader:
    """The long page with its figures."""
    return read(long_page(), figures=True)


def test_the_board_is_the_leaderboard() -> None:
    rows = read(small_page()).rows
    assert [row[1] for row in rows] == ["Tip-Adapter", "CoOp", "Zero-shot", "Linear probe"]
    # With two datasets, the interval is from the one to the other.
    assert rows[1] == [
        *("2", "CoOp", "shallow", "65.0 ± 0.0", "45.0 ± 0.0", "53.2 ± 0.0", "48.0 to 58.3"),
        *("-15.0", "–", "3,072", "20.0 s"),
    ]


def test_there_is_a_board_for_every_upgrade_and_number_of_shots_once() -> None:
    again = replace(long_page(), name="again", title="Again")
    boards = all_boards([long_page()])
    targets = ("New model", "Other model")
    assert [(board["upgrade"], board["shots"]) for board in boards] == [
        (f"Old model → {target}", shots) for target in targets for shots in ("4", "1")
    ]
    assert all_boards([long_page(), again]) == boards
    other = with_more(again, method(info("other"), 55, 55, targets=("new", "other"), shots=(1, 4)))
    suites = [board["suite"] for board in all_boards([long_page(), other])]
    assert suites == 4 * ["Tiny suite"] + 4 * ["Again"]
    # Transferred modules have ranks of their own, below the others.
    through = [row for row in boards[0]["rows"] if row["kind"] == "transferred"]
    assert through == boards[0]["rows"][-1:]
    assert [cell[0] for cell in through[0]["cells"][:2]] == ["words 1", "Method 03 (words)"]


def test_what_is_refused_or_missing_is_listed_with_its_reason() -> None:
    failed = make_row(None, method="r", task="dogs", status="failed", reason="broke")
    rows = lines_of(refuse(method(info("r"), 60, 60), "no way"))[:2]
    shown = read(with_more(small_page(), make_method(info("r"), [*rows, failed])))
    row = next(row for row in shown.rows if row[1] == "r")
    assert row[:6] == ["–", "r", "deep", "–", "not transferable", "–"]
    for text in ("not transferable 1 no way", "failed 1 broke", "missing 5 –"):
        assert f"r {text}" in shown.text
    text = read(small_page()).text
    assert "Nothing: every measurement" in text
    assert "No suite here has results at several numbers of shots" in text
    assert "No suite here has a path of two or more upgrades" in text


@pytest.mark.slow
def test_nothing_in_a_result_is_markup() -> None:
    page = read(hostile_page(), figures=True)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "img" not in dict(page.tags)
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name.startswith("on")]
    titles = [row[1] for row in page.rows]
    assert {one_line(title, 40) for title in HOSTILE} <= set(titles)
    assert HOSTILE[0] in page.text
    assert HOSTILE[1] in page.text


@pytest.mark.slow
@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_no_text_changes_the_shape_of_the_page(title: str, reason: str, note: str) -> None:
    def page(title: str, reason: str, note: str) -> SuitePage:
        results = refuse(method(info("r", title or "r"), 60, 60), reason)
        return with_more(replace(small_page(), title=title, note=f"Note {note}"), results)

    found, plain = read(page(title, reason, note)), read(page("Plain", "plain", "plain"))
    shapes = ([(tag, *attributes) for tag, attributes in one.tags] for one in (found, plain))
    assert next(shapes) == next(shapes)


@pytest.mark.slow
def test_the_page_asks_for_nothing_and_has_every_id_once(long: Reader) -> None:
    for _, attributes in long.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:", "https://arxiv.org/abs/")), value
    assert not re.search(r"@import|url\((?!#)", "".join(long.raw["style"]))
    ids = [attributes["id"] for _, attributes in long.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_its_policy_allows_its_own_script_and_style_alone() -> None:
    page = read(small_page())
    [policy] = [more["content"] or "" for tag, more in page.tags if "http-equiv" in more]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    sources = {"script-src": page.raw["script"][-1], "style-src": page.raw["style"][0]}
    for rule, source in sources.items():
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert not [name for _, attributes in page.tags for name in attributes if name == "style"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the suite ``smoke``, and its report."""
    out = tmp_path_factory.mktemp("report")
    for right, name in enumerate(("coop", "kgcoop", "taskres"), 40):
        where = dict(method=name, task="mini-weather", source="mini-clip")
        rows = [make_row(right, **where, backbone=one) for one in ("mini-clip", "mini-eva-clip")]
        write_results(out / "results" / "smoke", make_method(info(name), rows))
    output_of("report", "--out", str(out))
    return out


def test_the_command_writes_the_page_and_the_figures(folder: Path) -> None:
    assert sorted(path.name for path in (folder / "results" / "figures").iterdir()) == [
        "smoke-matrix-1.svg", "smoke-pareto-1.svg", "smoke-scatter-1.svg",
    ]  # fmt: skip
    assert (folder / "results" / "report.html").read_text(encoding="utf-8").endswith("</html>\n")
    output = output_of("report", "--check", "--out", str(folder))
    assert "smoke-ranks-1.svg is left out: the test needs three methods" in output
    assert "report.html is up to date, 3 figures beside it" in output


@pytest.mark.slow
def test_the_check_finds_what_is_old_gone_or_of_no_results(folder: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(folder, tmp_path / "copy"))

    def check_says(message: str) -> None:
        with pytest.raises(CompatbenchError, match=re.escape(message)):
            output_of("report", "--check", "--out", str(out))

    for name in ("report.html", "figures/smoke-matrix-1.svg"):
        path = out / "results" / name
        path.write_bytes(path.read_bytes() + b" ")
        check_says(f"{path.name} is not what results/ gives")
        path.unlink()
        check_says(f"{path.name} is not what results/ gives")
        output_of("report", "--out", str(out))
    stray = out / "results" / "figures" / "gone-scatter-1.svg"
    stray.write_text("<svg/>")
    check_says("gone-scatter-1.svg belongs to no results here")
    output_of("report", "--out", str(out))
    assert not stray.exists()


def test_a_folder_without_results_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(CompatbenchError, match="holds no results; give the folder"):
        output_of("report", "--out", str(tmp_path))


def test_the_suites_of_the_leaderboard_come_first_and_trials_stay_out(tmp_path: Path) -> None:
    row = make_row(task="mini-weather", source="mini-clip", backbone="mini-clip")
    for suite in ("smoke", "mini-shots"):
        write_results(tmp_path / "results" / suite, make_method(info("coop"), [row]))
    assert [page.name for page in report_pages(tmp_path)] == ["mini-shots"]
    write_results(tmp_path / "results" / "mini", make_method(info("coop"), [row]))
    (tmp_path / "results" / "figures").mkdir()
    assert [page.name for page in report_pages(tmp_path)] == ["mini", "mini-shots"]
    (tmp_path / "results" / "mine").mkdir()
    with pytest.warns(CompatbenchWarning, match="mine is left out: no suite has that name"):
        report_pages(tmp_path)
