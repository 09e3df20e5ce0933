"""Links of Markdown have targets, its English is plain, and the site needs no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PLACES = ("*.md", "docs/**/*.md", "results/**/*.md", "tasks/**/*.md", ".github/*.md")


def anchors(page: Path) -> set[str]:
    """Return GitHub's anchors of the headings of a page."""
    found: list[str] = []
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    for heading in re.findall(r"(?m)^#{1,6} +(.*?) *$", text):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        before = [re.sub(r"-\d+$", "", anchor) for anchor in found].count(slug)
        if before:
            slug = f"{slug}-{before}"
        found.append(slug)
    return {*found}


def pages_in(places: Sequence[str]) -> list[Path]:
    """Return the files that match some globs, sorted."""
    found: set[Path] = set()
    for place in places:
        found.update(REPOSITORY.glob(place))
    return sorted(found)


def test_every_link_has_a_target() -> None:
    broken = []
    seen = 0
    for page in pages_in(PLACES):
        text = re.sub(r"(?ms)^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(<?([^)>\s]+)>?\)", text):
            # Another site, or a page of GitHub.
            if re.match(r"\w+:|\.\./\.\./(actions|deployments)/", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            seen += 1
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.relative_to(REPOSITORY)}: {target}")
    assert broken == []
    assert seen > 200


def test_pages_are_small_and_tables_are_not_padded() -> None:
    pages = pages_in(["docs/**/*.md", "results/**/*.md"])
    others = 0
    for page in pages:
        size = page.stat().st_size
        if page.parent.name == "methods":
            assert size <= 5_000, page
        else:
            others += size
    assert others <= 340_000
    for page in pages:
        text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
        for row in re.findall(r"(?m)^\|.*\|$", text):
            assert "  " not in row, page
            assert "----" not in row, page


@pytest.mark.slow
def test_site_builds_without_warnings_and_needs_no_network(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package)
    site = tmp_path / "site"
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", DOCS, site]
    server = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "owner/name"}
    environment = os.environ | server
    done = subprocess.run(build, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    front = (site / "README.html").read_text(encoding="utf-8")
    pages = [page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")]
    for page in pages:
        assert page.name == "README.html" or f'href="{page.as_posix()}"' in front  # the sidebar
        html = (site / page).read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|img|link|iframe|source)\b[^>]*>", html):
            assert not re.search(r"""(?:src|href)=["'](?:\w+:)?//""", tag)
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:\w+:)?//", style.read_text("utf-8"))
    assert 'href="https://github.com/owner/name/blob/main/leaderboard.md"' in front
    headings = re.findall(r"(?m)^## (.*)$", (DOCS / "README.md").read_text(encoding="utf-8"))
    assert re.findall(r'class="caption-text">([^<]*)<', front) == headings
    assert "README.html" in (site / "index.html").read_text(encoding="utf-8")
    assert (site / "searchindex.js").is_file()  # a script, so that search works from a folder


WRITTEN = ("*.md", "docs/**/*.md", ".github/*.md", "benchmark/**/*.md", "benchmark/**/*.py")
BANNED = re.compile(
    r"for want of|what lacks|passed over|besides,|\bmend(s|ed|ing)?\b|nothing bears|\bcome by\b|"
    r"the dear|(had|taken) back|of its own accord|\bh(olds?|eld) (it |them )?against\b|"
    r"\b(whence|thereof|wherein|naught|forthwith|albeit|heretofore|heirs?|spoilt)\b|"
    r"an eleventh of|_(hear|bury|welcome)\(|\btells? of\b|"
    r"\b(no|only a) turn\b|the turn (found|itself)|"
    r"cannot be had|make-believe|by heart|takes? no part|it is said so|(says?|said) nothing of|"
    r"its own and what|an eye on|is come by|doors shut",
    re.IGNORECASE,
)


def test_no_text_has_a_banned_phrase() -> None:
    found = []
    for path in pages_in(WRITTEN):
        text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))  # a phrase may be wrapped
        for phrase in BANNED.finditer(text):
            found.append(f"{path.relative_to(REPOSITORY)}: {phrase[0]}")
    assert found == []
