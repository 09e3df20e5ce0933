"""Write ``words.txt``: common English names of things that a photo can show.

    apt-get download scowl=2020.12.07-4 wordnet-base=1:3.0-39
    dpkg -x scowl_*.deb scowl && dpkg -x wordnet-base_*.deb wordnet
    python benchmark/research/make_words.py scowl wordnet

A word of SCOWL's levels 10 to 35 is taken if its most frequent sense as a noun is, in WordNet,
an animal, an artefact, food, a place, a natural object or phenomenon, a plant or a substance.
Words for persons and parts of the body are left out, because many of them are used to call people
names. The choice uses neither the class names of any task nor any model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import typer

LEVELS = (10, 20, 35)
VARIETIES = ("english", "american")
# The numbers of WordNet's files of nouns, see lexnames(5WN).
THINGS = {
    5: "animal",
    6: "artifact",
    13: "food",
    15: "location",
    17: "object",
    19: "phenomenon",
    20: "plant",
    27: "substance",
}
SHORTEST = 3  # letters
# Harmless by WordNet's first sense, but insults by another.
UNKIND = {"ass", "bastard", "bitch", "bugger", "cock", "cunt", "dago", "dildo", "dyke", "fag"}
UNKIND |= {"faggot", "prick", "pussy", "shit", "slut", "tit", "tits", "turd", "twat", "wog"}

WORDS = Path(__file__).parents[1] / "compatbench" / "backbone" / "words.txt"


def make_words(scowl: Path, wordnet: Path) -> list[str]:
    """Return the words in alphabetical order; the folders are of the two unpacked packages."""
    things = set(_things(wordnet / "usr" / "share" / "wordnet"))
    folder = scowl / "usr" / "share" / "dict" / "scowl"
    words: set[str] = set()
    for level in LEVELS:
        for variety in VARIETIES:
            text = (folder / f"{variety}-words.{level}").read_text("latin-1")
            words.update(text.split())
    chosen = []
    for word in words & (things - UNKIND):
        is_plain = word.isascii() and word.isalpha() and word.islower()
        if is_plain and len(word) >= SHORTEST:
            chosen.append(word)
    return sorted(chosen)


def _things(folder: Path) -> Iterator[str]:
    """Yield the nouns whose most frequent sense is a thing."""
    files: dict[str, int] = {}  # the file of each sense
    for offset, file, *_ in _rows(folder / "data.noun"):
        if len(offset) == 8:
            files[offset] = int(file)
    for lemma, _, senses, *rest in _rows(folder / "index.noun"):
        offsets = rest[-int(senses) :]  # the most frequent sense first
        if files[offsets[0]] in THINGS:
            yield lemma


def _rows(path: Path) -> Iterator[list[str]]:
    """Yield the words of each line below the licence, whose lines are indented."""
    for line in path.read_text("latin-1").splitlines():
        if not line.startswith(" "):
            yield line.split()


def main(scowl: Path, wordnet: Path, out: Path = WORDS) -> None:
    """Write the words of two unpacked packages below the licences that head the list."""
    head = [line for line in WORDS.read_text("ascii").splitlines() if line.startswith("#")]
    words = make_words(scowl, wordnet)
    head[0] = re.sub(r"[\d,]+", f"{len(words):,}", head[0], count=1)
    out.write_text("\n".join([*head, *words, ""]), encoding="ascii")


if __name__ == "__main__":
    typer.run(main)
