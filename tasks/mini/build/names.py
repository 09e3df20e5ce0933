"""What a drawing shows, read from its name: the concept, the style, the emoji it stands for."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from .fetch import emoji_table, read_json
from .render import names_path
from .sets import IconSet, icon_sets

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
_TONE_AT_END = re.compile(r"-(medium-light|medium-dark|light|medium|dark)(-skin-tone)?$")
_STYLE_WORD = re.compile(
    r"\d+|24px|f|fill(ed)?|lin(e|ear)|outlined?|round(ed)?|solid|sharp|regular|bold|light|thin|broken"
    r"|duo(tone)?|twotone|flat|color|free(hand)?|remix"
)
_STYLE_NAMES = {"fill": "filled", "line": "outline", "linear": "outline", "outlined": "outline"}


def slug(text: str) -> str:
    """Turns a label into the form icon names have: lower case, ASCII, hyphens."""
    plain = unicodedata.normalize("NFKD", text.lower().replace("’", "").replace("'", ""))
    ascii_only = plain.encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only).strip("-")


@dataclass
class Emoji:
    """One emoji: its label without skin tone, its tags, its tone, 0 for none."""

    label: str
    tags: tuple[str, ...] = ()
    tone: int = 0


@dataclass
class EmojiIndex:
    """Finds the emoji that a drawing's name or code points mean."""

    by_code: dict[str, Emoji] = field(default_factory=dict)
    by_slug: dict[str, Emoji] = field(default_factory=dict)
    by_letters: dict[str, Emoji] = field(default_factory=dict)

    @classmethod
    def load(cls, work: Path) -> EmojiIndex:
        index = cls()
        for row in emoji_table(work):
            emoji = _emoji(row)
            index.by_code[_code(row["hexcode"])] = emoji
            for tone, skin in enumerate(row.get("skins", []), start=1):
                # Pairs of people have many skins; past the fifth the two tones differ.
                index.by_code[_code(skin["hexcode"])] = _emoji(row, tone)
            key = slug(emoji.label)
            for name in {key, key.replace("flag-", "flag-for-", 1)}:
                index.by_slug.setdefault(name, emoji)
                index.by_letters.setdefault(name.replace("-", ""), emoji)
        return index

    def find(self, icon_set: str, name: str) -> Emoji | None:
        """The emoji that a drawing of an emoji set shows, or None."""
        tone = 0
        if icon_set == "streamline-emojis":
            name = re.sub(r"-\d$", "", name)
        found = _TONE_AT_END.search(name)
        if found and (found.group(2) or icon_set.startswith("fluent-emoji")):
            name, tone = name[: found.start()], 1 + TONES.index(found.group(1))
        if "skin-tone" in name:
            return None
        candidates = (
            name,
            name.replace("-facing-right", ""),
            f"man-{name}",
            name.replace("black-", ""),
            f"{name}-face",
            name.replace("flag-for-flag-for", "flag-for"),
        )
        emoji = next((self.by_slug[c] for c in candidates if c in self.by_slug), None)
        if emoji is None and icon_set == "fxemoji":
            emoji = self.by_letters.get(name.replace("-", ""))
        return emoji and Emoji(emoji.label, emoji.tags, tone)


def _code(hexcode: str) -> str:
    return hexcode.lower().replace("-fe0f", "")


def _emoji(row: dict[str, Any], tone: int = 0) -> Emoji:
    return Emoji(row["label"], tuple(row.get("tags", ())), tone)


def split_style(name: str) -> tuple[str, str]:
    """Splits an icon's name into what it shows and the style words at its end.

    Returns:
        ``("camera-off", "outline")`` for ``camera-off-outline``.
    """
    words, style = name.split("-"), []
    while len(words) > 1 and _STYLE_WORD.fullmatch(words[-1]):
        word = words.pop()
        if not word.isdigit() and word not in ("free", "24px"):
            style.append(_STYLE_NAMES.get(word, word))
    return "-".join(words), " ".join(reversed(style))


def read_names(work: Path, icon_set: IconSet, index: EmojiIndex) -> pd.DataFrame:
    """The drawings of one set and what they show.

    Returns:
        One row per drawing, in the order of the rendered array: ``set``, ``row``,
        ``name``, ``concept`` (slug), ``label`` (emoji only, else empty), ``tags``
        (joined by ``|``), ``tone`` (0 where there is none), ``style``.
    """
    names = pd.read_csv(names_path(work, icon_set.name), keep_default_na=False)["name"].tolist()
    codes: dict[str, str] = {}
    if icon_set.is_emoji:
        for code, name in (read_json(work, icon_set.package, "chars.json") or {}).items():
            if _code(code) in index.by_code:
                codes.setdefault(name, _code(code))
    rows = []
    for row, name in enumerate(names):
        emoji = None
        if icon_set.is_emoji:
            emoji = index.by_code[codes[name]] if name in codes else index.find(icon_set.name, name)
        concept, style = split_style(name)
        rows.append(
            {
                "set": icon_set.name,
                "row": row,
                "name": name,
                "concept": slug(emoji.label) if emoji else concept,
                "label": emoji.label if emoji else "",
                "tags": "|".join(emoji.tags) if emoji else "",
                "tone": emoji.tone if emoji else 0,
                "style": "" if icon_set.is_emoji else style,
            }
        )
    return pd.DataFrame(rows)


def table_path(work: Path) -> Path:
    """Where the table of all drawings of all sets is kept."""
    return work / "drawings.parquet"


def write_table(work: Path) -> None:
    """Writes the table of all drawings: the columns of read_names, plus ``role`` and ``emoji``."""
    index = EmojiIndex.load(work)
    tables = []
    for icon_set in icon_sets().values():
        table = read_names(work, icon_set, index)
        tables.append(table.assign(role=icon_set.role, emoji=icon_set.is_emoji))
    pd.concat(tables, ignore_index=True).to_parquet(table_path(work))
