"""The page in a browser: sorting, filtering, keyboard, phones, and not one request."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from figure_pages import hostile_page, long_page

from compatbench.pages.figures.plan import plan_figures
from compatbench.pages.html_report import render_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A browser of its own accord talks to its maker, and needs rights that a container lacks.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

OpenPage = Callable[..., "Page"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium on this machine; on Debian, 'apt-get install chromium'")
    api = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[dev]'")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pages = [long_page(), hostile_page()]
    drawings = plan_figures(pages)
    figures = {one.name: one.render() for one in drawings if not one.missing}
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_report(pages, drawings, figures), encoding="utf-8")
    return path


@pytest.fixture
def complaints() -> list[str]:
    """What the browser says against the page, and what the page asks for."""
    return []


@pytest.fixture
def open_page(browser: Browser, file: Path, complaints: list[str]) -> Iterator[OpenPage]:
    contexts = []

    def open(width: int = 1280, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: complaints.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open
    for context in contexts:
        context.close()


def column(page: Page, number: int) -> list[str]:
    return page.locator(f"#board tbody tr > :nth-child({number})").all_inner_texts()


def sorted_by(page: Page) -> dict[str, str]:
    heads = page.locator("#board thead th")
    ways = heads.evaluate_all("all => all.map(e => [e.innerText.trim(), e.ariaSort])")
    return {name: way for name, way in ways if way != "none"}


def test_it_opens_without_a_word_or_a_request(
    open_page: OpenPage, complaints: list[str], file: Path
) -> None:
    page = open_page()
    assert page.get_by_role("heading", level=1).is_visible()
    page.mouse.wheel(0, 20_000)
    assert complaints == [file.as_uri()]
    assert page.evaluate("typeof hacked") == "undefined"


def test_the_script_draws_what_was_there_without_it(open_page: OpenPage) -> None:
    plain = open_page(java_script_enabled=False)
    scripted = open_page()
    boards = [page.locator("#board").inner_text() for page in (plain, scripted)]
    assert boards[0] == boards[1]
    assert plain.locator("form").is_hidden()
    assert scripted.locator("form").is_visible()


def test_columns_sort_both_ways_and_what_is_missing_stays_last(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("Upgrade", exact=True).select_option(label="Old model → Other model")
    assert sorted_by(page) == {"Rank": "ascending"}
    button = page.get_by_role("button", name="Target", exact=True)
    button.click()
    assert sorted_by(page) == {"Target": "descending"}
    shown = [float(text.split()[0]) for text in column(page, 5) if text != "–"]
    assert shown == sorted(shown, reverse=True)
    assert column(page, 5)[-1] == "–"
    button.click()
    assert sorted_by(page) == {"Target": "ascending"}
    assert [float(text.split()[0]) for text in column(page, 5)[:-1]] == sorted(shown)
    assert column(page, 5)[-1] == "–"
    page.get_by_role("button", name="Method", exact=True).click()
    names = column(page, 2)
    assert names == sorted(names, key=str.lower)


def test_the_keyboard_sorts_and_the_focus_is_seen(open_page: OpenPage) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the leaderboard"
    for _ in range(40):
        if page.evaluate("document.activeElement.textContent") == "Gain":
            break
        page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    assert sorted_by(page) == {"Gain": "descending"}
    page.keyboard.press("Space")
    assert sorted_by(page) == {"Gain": "ascending"}


def test_methods_are_filtered_by_name_and_kind(open_page: OpenPage) -> None:
    page = open_page()
    status = page.get_by_role("status")
    assert status.inner_text() == "15 of 15 methods"
    page.get_by_label("Method contains", exact=True).fill("METHOD 1")
    assert status.inner_text() == "2 of 15 methods"
    assert all(name.startswith("Method 1") for name in column(page, 2))
    page.get_by_label("Kind", exact=True).select_option("shallow")
    assert sorted(column(page, 2)) == ["Method 12"]
    page.get_by_label("Method contains", exact=True).fill("")
    page.get_by_label("Kind", exact=True).select_option("transferred")
    assert column(page, 1) == ["words 1"]
    page.get_by_label("Method contains", exact=True).fill("no such method")
    assert status.inner_text() == "0 of 15 methods"


def test_every_board_can_be_chosen(open_page: OpenPage) -> None:
    page = open_page()
    caption = page.locator("#board-caption")
    page.get_by_label("Shots", exact=True).select_option("1")
    page.get_by_label("Upgrade", exact=True).select_option(label="Old model → Other model")
    assert caption.inner_text() == "Tiny suite: Old model → Other model, 1 shot"
    # A suite that has no such upgrade shows its first.
    page.get_by_label("Suite", exact=True).select_option(index=1)
    assert "</script>" in caption.inner_text()
    assert page.locator("#board tbody tr").count() == 7
    page.get_by_label("Suite", exact=True).select_option("Tiny suite")
    assert page.locator("#board tbody tr").count() == 15


def test_a_tap_on_a_mark_names_it(open_page: OpenPage) -> None:
    page = open_page(has_touch=True)
    figure = page.locator("#tiny-ranks-1")
    figure.locator(".hover").first.dispatch_event("click")
    assert "average rank" in figure.locator(".readout").inner_text()


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_the_page_is_never_wider_than_the_screen(open_page: OpenPage, width: int) -> None:
    page = open_page(width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # What is wider scrolls by itself, and by keyboard.
    wide = page.locator(".scroll, .plot")
    assert wide.evaluate_all("all => all.every(e => e.tabIndex === 0 && e.ariaLabel !== '')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_can_be_read(open_page: OpenPage, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    colours = page.evaluate(
        """() => ["body", ".note", "#board a", "#tiny-scatter-1 text"].map((at) => {
            const style = getComputedStyle(document.querySelector(at));
            return at.endsWith("text") ? style.fill : style.color;
        })"""
    )
    paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper > 0.5) == (scheme == "light")
    for colour in colours:
        lighter, darker = sorted((luminance(colour), paper), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_it_prints_on_white(open_page: OpenPage) -> None:
    page = open_page(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert luminance(page.evaluate("getComputedStyle(document.body).color")) < 0.05
    assert page.locator("form").is_hidden()
    assert page.locator("#board tbody tr").count() == 15


def luminance(colour: str) -> float:
    """The relative luminance of ``rgb(r, g, b)`` (WCAG 2.1)."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
