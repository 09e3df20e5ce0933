"""An independent recomputation agrees with the published pages, and finds a broken number."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import referee

ROOT = Path(__file__).parents[2]
PAGES = (
    "leaderboard.md",
    "docs/findings.md",
    "results/mini/README.md",
    "results/report/data/mini.js",
)
LINKED = ("tasks", "transfers", "results/mini-price", "results/report/index.js")


@pytest.fixture(scope="module")
def published() -> list[str]:
    """Return the differences of the pages in this repository."""
    return referee.list_differences(ROOT)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a folder with a copy of the pages, and with links to the results."""
    rows = [f"results/mini/{path.name}" for path in (ROOT / "results" / "mini").glob("*.*")]
    for name in {*rows, *LINKED} - {*PAGES}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    for name in PAGES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.slow
def test_the_pages_agree_with_an_independent_recomputation(published: list[str]) -> None:
    assert published == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "line", "old", "new", "where"),
    [
        ("leaderboard.md", "| [GDA][2402.04087] | deep", " 62.3 ± 0.2 ", " 62.4 ± 0.2 ", "H"),
        ("leaderboard.md", "| [GDA][2402.04087] | deep", "| 1= |", "| 2= |", "Rank"),
        ("leaderboard.md", "| [GDA][2402.04087] | ", "+1.4 to", "+1.5 to", "GDA"),
        ("leaderboard.md", "| [ProKeR][2501.11175] | ", "gains", "cannot tell", "ProKeR"),
        ("leaderboard.md", "| [PLOT][2210.01253] | ", "| not ranked", "| loses", "PLOT"),
        ("leaderboard.md", "| the old model kept", "Rosetta ‡", "LDC", "try first"),
        (
            "leaderboard.md",
            "methods share first place",
            "it stays among",
            "it is among",
            "ties",
        ),
        ("leaderboard.md", "cannot tell; **[CLIP-LoRA]", "cannot tell; **", "**", "try first"),
        (
            "leaderboard.md",
            "or **[APE][2304.01195]**",
            "| 64.5 |",
            "| 64.6 |",
            "try first",
        ),
        ("results/mini/README.md", "| words 1= | [GDA]", "| +3.1 |", "| +3.2 |", "Gain"),
        ("docs/findings.md", "ContCoOp has the highest H |", "-5.2", "-4.2", "claims"),
        ("docs/findings.md", "| 4 | ContCoOp gains +2.68", "**supported", "**contradicted", "H or"),
        (
            "results/report/data/mini.js",
            '"mini-eva-clip"]',
            '["64.3 ± 0.4",',
            '["64.2 ± 0.4",',
            "H",
        ),
    ],
)
def test_a_broken_number_in_a_page_is_one_line(
    copy: Path, published: list[str], page: str, line: str, old: str, new: str, where: str
) -> None:
    lines = (copy / page).read_text(encoding="utf-8").splitlines(keepends=True)
    [number, *_] = [i for i, each in enumerate(lines) if line in each and old in each]
    lines[number] = lines[number].replace(old, new, 1)
    (copy / page).write_text("".join(lines), encoding="utf-8")
    found = [each for each in referee.list_differences(copy) if each not in published]
    assert found
    assert all(where in each for each in found)


@pytest.mark.parametrize(("found", "code"), [([], 0), (["leaderboard.md: H"], 1)])
def test_a_difference_is_printed_and_gives_exit_code_1(
    found: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(referee, "list_differences", lambda root: found)
    assert referee.main(ROOT) == code
    assert capsys.readouterr().out.splitlines()[-1].endswith("H" if found else "pages.")


def test_the_referee_imports_nothing_of_the_project() -> None:
    lines = (ROOT / "benchmark" / "referee.py").read_text(encoding="utf-8").splitlines()
    imports = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    assert imports == {"__future__", "csv", "json", "re", "sys", "pathlib", "numpy", "scipy"}
