"""Plain technical English: turns of speech that this project does not use."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PLACES = ("*.md", "docs/**/*.md", ".github/*.md", "benchmark/**/*.md", "benchmark/**/*.py")
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


def test_no_text_has_a_banned_turn() -> None:
    found = []
    for path in sorted(path for place in PLACES for path in REPOSITORY.glob(place)):
        text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))  # a turn may be wrapped
        found += [f"{path.relative_to(REPOSITORY)}: {one[0]}" for one in BANNED.finditer(text)]
    assert found == []
