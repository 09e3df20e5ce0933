"""The site: what it says, that nothing in a result can change its markup, and its command."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from command_line import output_of
from made_results import UPGRADE, make_method, make_row, with_card
from made_up_suites import HOSTILE, KINDS, hostile_page, info, small_page, survival_page

from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.messages import one_line
from compatbench.results.reports import RowReport, RowReports, find_origins
from compatbench.results.result_files import ResultFiles
from compatbench.tables.pages.method_pages import list_verdicts, render_method_pages
from compatbench.tables.pages.report_site import SOURCES, Report, render_site, report_pages
from compatbench.tables.pages.site_data import list_capabilities, to_html
from compatbench.tables.suite_page import SuitePage, published_pages
from compatbench.tables.survival_tables import read_survival

COMMITTED = Path(__file__).parents[2] / "results" / "report"


def parse(script: bytes) -> dict[str, Any]:
    """The data of a script of the site."""
    text = script.decode()
    return json.loads(text[text.index("{") : text.rindex("}") + 1])


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return render_site([small_page()])


def test_a_method_of_nobody_s_file_has_its_settings_and_no_capabilities(
    files: dict[str, bytes],
) -> None:
    shown, index = parse(files["data/tiny.js"]), parse(files["index.js"])
    assert {index["settings"][i] for i in shown["methods"]["tip"]} == {"lr: 0.002"}
    assert {*index["methods"]} == {"zeroshot", "coop"}  # of the project, which knows no other


def reported(page: SuitePage) -> SuitePage:
    """Return the page of a suite whose rows one person has reported, and another repeated."""
    report = RowReport(
        by="Ada",
        command="compatbench run --suite tiny",
        hardware=("1 GPU",),
        versions={"torch": ("2.9",)},
        weights={"old": "0" * 64},
        rows=dict.fromkeys(page.results.methods, "1" * 64),
    )
    again = report.model_copy(update={"by": "Bob", "differences": dict.fromkeys(report.rows, 0.5)})
    reports = RowReports(reported=(report,), measured_again=(again,))
    origins = find_origins(reports, report.rows)
    return replace(page, reports=reports, origins=origins)


def test_rows_of_real_models_come_first_with_who_measured_them(files: dict[str, bytes]) -> None:
    assert b"Real models" not in files["index.html"]
    page = reported(small_page())
    html = render_site([page, survival_page()])["index.html"].decode()
    assert html.index('id="real"') < html.index('<h2 id="survival-title">')
    [section] = re.findall('(?s)<section id="real".*?</section>\n', html)
    who = "reported by Ada; measured again by Bob (at most 0.5 points apart)"
    assert section.count(who) == len(page.results.methods)
    assert "Measured again by Bob: <code>compatbench run --suite tiny</code>" in section
    plain = render_site([small_page(), survival_page()])["index.html"].decode()
    assert html.replace(f"{section}<h2>Other models</h2>\n", "") == plain
    # Without miniatures, it is above the rankings.
    alone = render_site([page])["index.html"].decode()
    assert alone.replace(section, "") == files["index.html"].decode()


class Tags(HTMLParser):
    """The elements and attributes of markup."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.slow
@pytest.mark.parametrize("groups", [{}, {HOSTILE[0]: (UPGRADE,)}])
def test_nothing_in_a_result_is_markup(groups: dict[str, Any]) -> None:
    page = replace(hostile_page(), groups=groups)
    files = render_site([page])
    shown = parse(files["data/tiny.js"])
    titles = [row[4][1] for row in shown["boards"][0]["rows"]]
    assert {one_line(title, 40) for title in HOSTILE} <= set(titles)
    markup = [part["html"] for part in shown["parts"]]
    found = Tags("".join(markup)).tags
    assert {tag for tag, _ in found} <= {"p", "a", "code", "strong"}
    assert {name for _, attributes in found for name in attributes} <= {"href"}
    index = files["index.html"].decode()
    plain = render_site([with_card(page, title="Plain")])["index.html"].decode()
    shapes = [[(tag, *more) for tag, more in Tags(html).tags] for html in (index, plain)]
    assert shapes[0] == shapes[1]
    assert "<script" not in to_html(HOSTILE[0])
    assert "href" not in to_html("[a](javascript:alert(1))")
    link = '<a href="https://b.c">b</a>'
    assert to_html("a\n[b](../../docs/b.md) [b](https://b.c)") == f"<p>a\nb {link}</p>"


def test_the_page_asks_for_nothing_outside_and_its_policy_forbids_it(
    files: dict[str, bytes],
) -> None:
    found = Tags(files["index.html"].decode()).tags
    links = [more[name] or "" for _, more in found for name in ("src", "href") if name in more]
    assert {link for link in links if not link.startswith(("#", "data:"))} <= files.keys()
    [policy] = [more["content"] or "" for _, more in found if "http-equiv" in more]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == "'self' file:"
    assert not [name for _, more in found for name in more if name == "style" or name[:2] == "on"]
    ids = [more["id"] for _, more in found if "id" in more]
    assert len(set(ids)) == len(ids)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the suite ``smoke``, and its report."""
    out = tmp_path_factory.mktemp("report")
    for right, name in enumerate(("coop", "kgcoop", "taskres"), 40):
        where = dict(method=name, task="mini-weather", source="mini-clip")
        rows = [make_row(right, **where, backbone=one) for one in ("mini-clip", "mini-eva-clip")]
        ResultFiles(out).write("smoke", [make_method(info(name), rows)])
    output_of("report", "--out", str(out))
    return out


def test_the_command_writes_the_site_and_the_figures(folder: Path) -> None:
    assert sorted(path.name for path in (folder / "results" / "figures").iterdir()) == [
        "smoke-matrix-1.svg",
        "smoke-scatter-1.svg",
    ]
    site = folder / "results" / "report"
    names = {path.relative_to(site).as_posix() for path in site.rglob("*.*")}
    assert names == {"index.html", "index.js", "data/smoke.js", *SOURCES} - {"LICENSE-vega"}
    assert (site / "LICENSE-vega").is_file()
    output = output_of("report", "--check", "--out", str(folder))
    assert "index.html is up to date, with 2 figures" in output


def test_one_page_and_one_figure_are_counted_in_the_singular() -> None:
    files = {Path("index.html"): b"", Path("one.svg"): b""}
    report = Report(files, (), (Path("leaderboard.md"), Path("README.md")))
    shown = ["leaderboard.md written, with 1 other page", "index.html written, with 1 figure"]
    assert list(report.parts()) == shown


def test_what_another_program_has_drawn_is_not_compared(folder: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(folder, tmp_path / "copy"))
    [figure, *_] = sorted((out / "results" / "figures").glob("*.svg"))
    for path in (figure, out / "results" / "report" / "index.js"):
        before = path.read_bytes()
        path.write_bytes(re.sub(rb"by vl-convert \S+", b"by vl-convert 1.0.0", before))
        with pytest.raises(CompatbenchError, match=f"{path.name} was drawn by vl-convert 1.0.0, "):
            output_of("report", "--check", "--out", str(out))
        path.write_bytes(before)


@pytest.mark.slow
def test_the_check_finds_what_is_old_gone_or_of_no_results(folder: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(folder, tmp_path / "copy"))

    def check_says(message: str) -> None:
        with pytest.raises(CompatbenchError, match=re.escape(message)):
            output_of("report", "--check", "--out", str(out))

    for name in ("report/index.html", "figures/smoke-matrix-1.svg"):
        path = out / "results" / name
        path.write_bytes(path.read_bytes() + b" ")
        check_says(f"{path.name} is not what results/ gives")
        path.unlink()
        check_says(f"{path.name} is not what results/ gives")
        output_of("report", "--out", str(out))
    for name in ("figures/gone-scatter-1.svg", "report/data/gone.js"):
        stray = out / "results" / name
        stray.write_text("<svg/>")
        check_says(f"{stray.name} belongs to no results here")
        output_of("report", "--out", str(out))
        assert not stray.exists()


def test_every_committed_suite_opens_with_rows_at_its_most_shots_and_the_site_is_small() -> None:
    index = parse((COMMITTED / "index.js").read_bytes())
    for suite in index["suites"]:
        shown = parse((COMMITTED / "data" / f"{suite['name']}.js").read_bytes())
        first, *others = shown["boards"]
        assert first["rows"], suite
        assert int(first["shots"]) == max(int(board["shots"]) for board in (first, *others)), suite
        assert not [board for board in others if not board["rows"]], suite
    files = [path for path in COMMITTED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2_000_000


def test_the_page_of_a_method_begins_with_the_verdicts_and_the_recipe() -> None:
    pages = render_method_pages([survival_page()])
    first, *_ = pages["coop"].split("\n\n[How to read ")
    assert first.splitlines() == [
        "# CoOp",
        "",
        "* CoOp loses 8.5 points (-9.1 to -7.9) if the new model is kin.",
        "* CoOp gains 8.5 points (+7.9 to +9.1) if the new model is a stranger.",
        "* The module attaches only to a model with the same token width.",
    ]
    assert "* MaPLe cannot be attached if the new model is kin.\n" in pages["maple"]
    headings = re.findall(r"(?m)^## (.*)$", pages["coop"])
    assert headings == ["Recipe", "Formula", "Module", "Results"]
    miniature = render_method_pages([with_card(survival_page(), likeness="Half alike.")])
    assert "the models are **miniatures, not CLIP**" in miniature["coop"]
    assert "not CLIP" not in pages["coop"]
    assert pages["zeroshot"].splitlines()[2] == "There are no results of this method yet."


def test_verdicts_in_words_are_those_of_the_frame() -> None:
    page = survival_page()
    sentences = list_verdicts(page)
    for row in read_survival(page).to_dict("records"):
        of_kind = [each for each in sentences[row["method"]] if row["kind"][1:] in each.sentence]
        assert [each.verdict for each in of_kind] == [row["verdict"]]
        assert row["verdict"].removeprefix("cannot ") in of_kind[0].sentence
    probe = sentences["probe"][0].sentence
    assert probe.startswith("We cannot tell whether Linear probe gains or loses if the new model ")
    assert probe.endswith("(+0.5 points, -9.3 to +10.3).")


def test_the_first_view_of_the_site_has_the_verdicts_of_the_frame() -> None:
    page = survival_page()
    frame = read_survival(page)
    html = render_site([page])["index.html"].decode()
    for title, of_method in frame.groupby("title"):
        linked = [line for line in html.splitlines() if f">{title}</a>" in line]
        [line] = [line for line in linked if "data-method" in line]
        shown = re.findall(r'<b class="[a-z-]+">(.*?)</b>', line)
        kinds = [KINDS.index(kind) for kind in of_method["kind"]]
        assert [shown[place] for place in kinds] == of_method["verdict"].tolist()
    assert "What can I do about it?" in html
    assert '<strong><a href="#method=coop">CoOp</a></strong>' in html  # the option to try
    assert 'id="survival"' not in render_site([small_page()])["index.html"].decode()


def test_links_lead_to_the_pages_that_the_site_has() -> None:
    html = to_html("[A suite](results/mini-shots/README.md), [a page of a clone](docs/trust.md)")
    assert (
        html == '<p><a href="#view=ranking&amp;suite=mini-shots">A suite</a>, a page of a clone</p>'
    )


def test_what_methods_can_do_is_what_was_measured_of_them() -> None:
    assert list_capabilities("linear_probe", "") == ["images"]
    assert list_capabilities("taskres", "") == ["images"]
    assert list_capabilities("taskres", "words") == ["images"]
    assert list_capabilities("taskres", "retrained+4") == []
    assert list_capabilities("zeroshot", "") == ["width", "images", "classes"]
    assert list_capabilities("of nobody", "") == []


def test_the_suites_of_the_leaderboard_come_first_and_trials_stay_out(tmp_path: Path) -> None:
    def shown() -> list[str]:
        return [
            page.card.name
            for page in report_pages(ResultFiles(tmp_path), published_pages(ResultFiles(tmp_path)))
        ]

    row = make_row(task="mini-weather", source="mini-clip", backbone="mini-clip")
    for suite in ("smoke", "mini-shots"):
        ResultFiles(tmp_path).write(suite, [make_method(info("coop"), [row])])
    assert shown() == ["mini-shots"]
    ResultFiles(tmp_path).write("mini", [make_method(info("coop"), [row])])
    for name in ("figures", "report", "published"):
        (tmp_path / "results" / name).mkdir()
        (tmp_path / "results" / name / "few_shot.csv").write_text("method\n")
    assert shown() == ["mini", "mini-shots"]
    (tmp_path / "results" / "mine").mkdir()
    with pytest.warns(CompatbenchWarning, match="mine is left out: no suite has that name"):
        shown()
