"""The site in a browser: shared views, filters, keyboard, phones, no request outside."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from made_results import with_card
from made_up_suites import KINDS, hostile_page, long_page, survival_page

from compatbench.tables.pages.report_site import render_site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A browser of its own accord talks to its maker, and needs rights that a container lacks.
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
FLAGS += " --disable-background-networking --disable-component-update"

OpenPage = Callable[..., "Page"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium on this machine; on Debian, 'apt-get install chromium'")
    api = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[dev]'")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    walk = replace(long_page(), paths=(("old", "new", "other"),))
    for name, content in render_site([walk, with_card(hostile_page(), name="hostile")]).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def survival_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site that opens on the verdicts."""
    folder = tmp_path_factory.mktemp("survival")
    note = "These are miniature models: they show how a module behaves in an upgrade. " * 3
    page = with_card(survival_page(), likeness="Half alike.", note=note)
    for name, content in render_site([page]).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def open_page(browser: Browser, site: Path) -> Iterator[OpenPage]:
    """Open views of a site, and fail if the browser complains or asks for anything outside."""
    contexts = []
    complaints: list[str] = []

    def open(view: str = "", width: int = 1400, site: Path = site, **options: Any) -> Page:
        height = options.pop("height", 800)
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        inside = site.as_uri()

        def check(request: Request) -> None:
            if not request.url.startswith(inside):
                complaints.append(request.url)

        page.on("request", check)
        page.goto(f"{inside}/index.html{view}")
        shown = "#board tbody:visible, #upgrades tbody:visible, #find-status:not(:empty):visible"
        page.locator(shown).first.wait_for()
        return page

    yield open
    for context in contexts:
        context.close()
    assert [text for text in complaints if not text.startswith("blob:")] == []


def column(page: Page, number: int) -> list[str]:
    return page.locator(f"#board tbody tr > :nth-child({number})").all_inner_texts()


def sorted_by(page: Page) -> dict[str, str]:
    heads = page.locator("#board thead th")
    ways = heads.evaluate_all("all => all.map(e => [e.innerText.trim(), e.ariaSort])")
    return {name: way for name, way in ways if way != "none"}


def draw_all(page: Page) -> None:
    """Scrolls until every figure is drawn."""
    page.evaluate(
        """async () => {
            document.documentElement.style.scrollBehavior = "auto";
            const wait = () => new Promise((done) => setTimeout(done, 20));
            const left = () => document.querySelectorAll(".plot:not([data-drawn])");
            const next = () => [...left()].find((plot) => plot.offsetParent);
            for (let plot; (plot = next()); await wait()) plot.scrollIntoView();
        }"""
    )


def test_columns_sort_both_ways_by_mouse_and_keyboard(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("Upgrade", exact=True).select_option(label="Old model → Other model")
    assert sorted_by(page) == {"Rank": "ascending"}
    button = page.get_by_role("button", name="Target", exact=True)
    button.click()
    assert sorted_by(page) == {"Target": "descending"}
    shown = [float(text.split()[0]) for text in column(page, 4) if text != "–"]
    assert shown == sorted(shown, reverse=True)
    assert column(page, 4)[-1] == "–"
    page.keyboard.press("Enter")  # the focus stays on the column
    assert sorted_by(page) == {"Target": "ascending"}
    assert [float(text.split()[0]) for text in column(page, 4)[:-1]] == sorted(shown)
    assert column(page, 4)[-1] == "–"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.get_by_role("button", name="Method", exact=True).click()
    names = column(page, 2)
    assert names == sorted(names, key=str.lower)
    assert len(set(names)) == len(names)  # no row twice


def test_filters_drive_table_and_figures(open_page: OpenPage) -> None:
    page = open_page()
    status = page.locator("#board-status")
    marks = page.locator("#scatter svg .mark-symbol [aria-roledescription=point]")
    assert status.inner_text() == "15 of 15 rows"
    draw_all(page)
    assert marks.count() == 15
    page.get_by_label("Method contains", exact=True).fill("METHOD 1")
    assert status.inner_text() == "2 of 15 rows"
    draw_all(page)
    assert marks.count() == 2
    described = marks.evaluate_all("all => all.map(e => e.ariaLabel)")
    assert all(": source " in text for text in described)
    marks.first.dispatch_event("click")
    assert ": source " in page.locator("#scatter .readout").inner_text()
    page.get_by_text("Filters and CSV").click()
    page.get_by_label("Kind of method", exact=True).select_option("shallow")
    assert column(page, 2) == ["Method 12"]
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_label("Transfer", exact=True).select_option("words")
    assert column(page, 1) == ["–"]
    draw_all(page)
    assert marks.count() == 1
    page.get_by_label("Method contains", exact=True).fill("no such method")
    assert page.locator("#board tbody").inner_text() == "No method matches these filters."
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_label("Capability", exact=True).select_option("survives another width")
    assert column(page, 2) == ["Zero-shot"]  # of made-up methods nothing is known


def test_a_view_is_shared_by_its_address(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("Shots", exact=True).select_option("1")
    page.get_by_label("Upgrade", exact=True).select_option(label="Old model → Other model")
    page.get_by_text("Filters and CSV").click()
    page.get_by_label("Kind of method", exact=True).select_option("deep")
    page.get_by_label("Columns by task", exact=True).select_option("Gain")
    page.get_by_role("button", name="Dogs: Gain").click()
    again = open_page(page.evaluate("location.hash"))
    for one in (page, again):
        caption = one.locator("#board-caption").inner_text()
        assert caption == "Tiny suite: Old model → Other model, 1 shot"
        assert sorted_by(one) == {"Dogs: Gain": "descending"}
    assert again.locator("#board").inner_text() == page.locator("#board").inner_text()
    heads = again.locator("#board thead th").all_inner_texts()
    place = heads.index("Dogs: Gain") + 1
    values = [float(text.replace("–", "-99")) for text in column(again, place)]
    assert values == sorted(values, reverse=True)
    with again.expect_download() as download:
        again.get_by_role("button", name="CSV of this view").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    head, *rows = csv.reader(text.splitlines())
    assert [row[head.index("Method")] for row in rows] == column(again, 2)
    assert [float(row[head.index("Dogs: Gain")]) for row in rows if row[-1] != "–"] == [
        value for value in values if value != -99
    ]
    # A view of a suite, or a suite that is not there, shows what there is.
    hostile = open_page("#suite=hostile&upgrade=nothing&shots=9")
    assert "</script>" in hostile.locator("#board-caption").inner_text()
    assert hostile.locator("#board tbody tr").count() == 7
    assert hostile.evaluate("typeof hacked") == "undefined"
    assert open_page("#suite=none").locator("#board tbody tr").count() == 15


def test_every_method_has_a_page(open_page: OpenPage) -> None:
    page = open_page("#sort=-H")
    page.locator("#board").get_by_role("link", name="Method 03", exact=True).click()
    # The browser tells of another address after the click has ended.
    title = page.get_by_role("heading", name="Method 03 in Tiny suite", exact=True)
    title.wait_for()
    assert title.evaluate("e => e === document.activeElement")
    ways = page.locator("#upgrades tbody th").all_inner_texts()
    assert ways.count("Old model → New model (words)") == 2  # at both numbers of shots
    assert page.locator("#by-dataset details[open] tbody th").all_inner_texts() == ["Cats", "Dogs"]
    assert page.get_by_text("compatbench run --suite tiny --methods m03").is_visible()
    page.get_by_role("link", name="All methods").click()
    page.locator("#board").wait_for()
    assert sorted_by(page) == {"H": "descending"}


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (800, "dark"), (400, "light")])
def test_it_can_be_read_and_used_by_all(open_page: OpenPage, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page("#sets=Gain", width, color_scheme=scheme)
    draw_all(page)
    # The page is never wider than the screen: what is wider scrolls by itself, and by keyboard.
    assert page.evaluate("document.documentElement.scrollWidth") == width
    wide = page.locator(".scroll:visible, .plot:visible")
    assert wide.evaluate_all("all => all.every(e => e.tabIndex === 0 && e.ariaLabel !== '')")
    svgs = page.locator(".plot svg")
    assert svgs.evaluate_all("all => all.every(e => e.getBBox().width > 200)")
    narrow = page.locator("#matrix .plot").evaluate("e => e.scrollWidth <= e.clientWidth")
    assert narrow, "the matrix fits"
    # The head stays in sight.
    box = page.locator(".tall")
    box.evaluate("e => { e.style.maxHeight = '200px'; e.scrollTop = 150; }")
    top = page.locator("#board thead th").first.evaluate("e => e.getBoundingClientRect().top")
    assert top == pytest.approx(box.evaluate("e => e.getBoundingClientRect().top"), abs=2)
    if width < 1400:
        options = {"preload": False, "resultTypes": ["violations"]}
        found = axe.run(page, options=options).response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_a_phone_shows_the_ranking_on_its_first_screen_with_nothing_cut_off(
    open_page: OpenPage,
) -> None:
    page = open_page(width=390)
    heads = page.locator("#board thead th").all_inner_texts()
    assert [text.strip() for text in heads] == ["Rank", "Method", "Source", "Target", "Gain"]
    place = page.locator("#board tbody tr").first.bounding_box()
    assert place
    assert place["y"] + place["height"] < 600
    box = page.locator("#leaderboard .scroll")
    assert box.evaluate("e => e.scrollWidth <= e.clientWidth")
    assert not page.locator("#choose-kind").is_visible()
    page.locator("#filters summary").click()
    assert page.locator("#choose-kind").is_visible()


def test_a_ranking_has_few_columns_until_a_reader_asks_for_more(open_page: OpenPage) -> None:
    page = open_page("#suite=tiny")
    first = ["Rank", "Method", "Source", "Target", "H", "Gain"]
    heads = page.locator("#board thead th")
    assert [text.strip() for text in heads.all_inner_texts()] == first
    page.get_by_role("button", name="More columns").click()
    fewer = page.get_by_role("button", name="Fewer columns")
    assert fewer.get_attribute("aria-expanded") == "true"
    assert {*first, "Depth", "Parameters"} < {text.strip() for text in heads.all_inner_texts()}
    assert open_page(page.evaluate("location.hash")).locator("#board thead th").count() > 6
    fewer.press("Enter")
    assert [text.strip() for text in heads.all_inner_texts()] == first
    # A shared view is sorted by a column that is not among the first.
    parameters = open_page("#sort=-Parameters")
    assert sorted_by(parameters) == {"Parameters": "descending"}


def test_the_site_opens_on_the_verdicts_and_their_caveat(
    open_page: OpenPage, survival_site: Path
) -> None:
    page = open_page(site=survival_site)
    assert page.get_by_role("heading", name="Does my module survive?").count() == 1
    assert page.get_by_text("We have not measured a real CLIP upgrade.").is_visible()
    heads = page.locator("#verdicts thead th").all_inner_texts()
    assert heads == ["Module", *KINDS]
    rows = [row.all_inner_texts() for row in page.locator("#verdicts tbody tr").locator("td").all()]
    assert ["loses -8.5 (-9.1 to -7.9)"] in rows
    search = page.get_by_label("Find your method")
    search.fill("tip ADAPTER")
    assert page.locator("#verdicts tbody tr:visible th").all_inner_texts() == ["Tip-Adapter"]
    assert page.get_by_role("status").inner_text() == "1 of 12 modules"
    again = open_page(page.evaluate("location.hash"), site=survival_site)
    assert again.locator("#verdicts tbody tr:visible").count() == 1
    search.fill("no such method")
    assert page.get_by_role("status").inner_text().startswith("No method contains")
    search.fill("")
    page.get_by_role("link", name="Rankings").click()
    page.locator("#board").wait_for()
    current = page.locator("#views [aria-current=page]").all_inner_texts()
    assert current == ["Rankings"]
    assert not page.locator("#survival").is_visible()


def test_the_verdicts_need_no_script(browser: Browser, survival_site: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{survival_site.as_uri()}/index.html")
    assert page.locator("#verdicts tbody tr").first.is_visible()
    context.close()


def test_a_method_page_begins_with_its_verdicts(open_page: OpenPage, survival_site: Path) -> None:
    page = open_page(site=survival_site)
    page.locator("#verdicts").get_by_role("link", name="CoOp").press("Enter")
    title = page.get_by_role("heading", name="CoOp in Tiny suite", exact=True)
    title.wait_for()
    assert title.evaluate("e => e === document.activeElement")
    assert page.locator("#method-verdicts li").all_inner_texts() == [
        "CoOp loses 8.5 points (-9.1 to -7.9) if the new model is kin.",
        "CoOp gains 8.5 points (+7.9 to +9.1) if the new model is a stranger.",
    ]
    assert page.locator("#card h3").first.inner_text() == "Recipe"
    page.get_by_role("link", name="All methods").click()
    page.locator("#verdicts").wait_for()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_verdicts_can_be_read_and_used_by_all(
    open_page: OpenPage, survival_site: Path, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(site=survival_site, width=width, height=844, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    boxes = page.locator("#survival .scroll")
    assert boxes.count() == 2  # the verdicts, and what to do about them
    assert boxes.evaluate_all("all => all.every(e => e.scrollWidth <= e.clientWidth)")
    assert page.locator(".answer").get_by_role("columnheader").count() > 2
    wide = page.locator(".scroll:visible")
    assert wide.evaluate_all("all => all.every(e => e.tabIndex === 0)")
    options = {"preload": False, "resultTypes": ["violations"]}
    found = axe.run(page, options=options).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []


@pytest.mark.parametrize(("view", "table"), [("", "#verdicts"), ("#view=ranking", "#board")])
def test_ten_rows_are_on_the_first_screen_of_a_laptop(
    open_page: OpenPage, survival_site: Path, view: str, table: str
) -> None:
    page = open_page(view, width=1280, height=900, site=survival_site)
    tenth = page.locator(f"{table} tbody tr").nth(9)
    assert tenth.evaluate("e => e.getBoundingClientRect().bottom") < 900


def test_paper_is_white_and_has_all_figures(open_page: OpenPage) -> None:
    page = open_page(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(26, 26, 26)"
    assert page.locator(".controls").is_hidden()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    left = "[...document.querySelectorAll('.plot:not([data-drawn])')].filter(e => e.offsetParent)"
    assert page.evaluate(f"{left}.length") == 0
    assert page.locator(".plot svg").count() == 4
    assert (
        page.locator("#scatter svg text").first.evaluate("e => e.getAttribute('fill')") == "#1a1a1a"
    )
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.evaluate("document.documentElement.classList.contains('paper')")
