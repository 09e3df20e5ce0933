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
from made_up_suites import hostile_page, long_page

from compatbench.tables.pages.report_site import render_site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

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


@pytest.fixture
def open_page(browser: Browser, site: Path) -> Iterator[OpenPage]:
    """Opens views of the site, which the browser complains of in no word."""
    contexts = []
    complaints: list[str] = []  # and what is asked for outside of its folder

    def open(view: str = "", width: int = 1400, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        inside = site.as_uri()
        page.on("request", lambda one: one.url.startswith(inside) or complaints.append(one.url))
        page.goto(f"{inside}/index.html{view}")
        page.locator("#board tbody, #ways tbody").first.wait_for(state="attached")
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
    shown = [float(text.split()[0]) for text in column(page, 5) if text != "–"]
    assert shown == sorted(shown, reverse=True)
    assert column(page, 5)[-1] == "–"
    page.keyboard.press("Enter")  # the focus stays on the column
    assert sorted_by(page) == {"Target": "ascending"}
    assert [float(text.split()[0]) for text in column(page, 5)[:-1]] == sorted(shown)
    assert column(page, 5)[-1] == "–"
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
    page.get_by_label("Kind", exact=True).select_option("shallow")
    assert column(page, 2) == ["Method 12"]
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_label("Transfer", exact=True).select_option("words")
    assert column(page, 1) == ["–"]
    draw_all(page)
    assert marks.count() == 1
    page.get_by_label("Method contains", exact=True).fill("no such method")
    assert page.locator("#board tbody").inner_text() == "No method passes these filters."
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_label("Capability", exact=True).select_option("survives another width")
    assert column(page, 2) == ["Zero-shot"]  # of made-up methods nothing is known


def test_a_view_is_shared_by_its_address(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("Shots", exact=True).select_option("1")
    page.get_by_label("Upgrade", exact=True).select_option(label="Old model → Other model")
    page.get_by_label("Kind", exact=True).select_option("deep")
    page.get_by_label("Columns by dataset", exact=True).select_option("Gain")
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
    ways = page.locator("#ways tbody th").all_inner_texts()
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


def test_a_phone_shows_the_table_on_its_first_screen_with_h_first(open_page: OpenPage) -> None:
    page = open_page(width=390)
    heads = page.locator("#board thead th").all_inner_texts()
    assert [text.strip() for text in heads[:4]] == ["Rank", "Method", "H", "Gain"]
    place = page.locator("#board tbody tr").first.bounding_box()
    assert place
    assert place["y"] + place["height"] < 700
    assert not page.locator("#choose-kind").is_visible()
    assert not page.locator("#answer").is_visible()
    page.locator("#filters summary").click()
    assert page.locator("#choose-kind").is_visible()


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
