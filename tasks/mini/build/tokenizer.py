"""Step ``tokenizer``: a small byte-pair vocabulary in open_clip's SimpleTokenizer format."""

from __future__ import annotations

import collections
import gzip
import itertools
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import regex
from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode

from .captions import FIXED_WORDS
from .fetch import emoji_table
from .names import table_path
from .sets import MINI_FOLDER

MERGES = 2000
CONTEXT_LENGTH = 32
TOKENIZER_PATH = MINI_FOLDER / "tokenizer.txt.gz"

LABEL_WEIGHT = 6
TEMPLATE_WEIGHT = 300
_WORD = regex.compile(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")

Word = tuple[str, ...]
Pair = tuple[str, str]


def write_tokenizer(work: Path, path: Path = TOKENIZER_PATH) -> None:
    """Learns the vocabulary from the pre-training captions' words and writes it."""
    merges = learn_merges(count_words(work), MERGES)
    # No newline at the end: SimpleTokenizer would take it for one more merge.
    text = "\n".join(["#version: compatbench mini", *(" ".join(pair) for pair in merges)])
    path.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))


def load_tokenizer(path: Path = TOKENIZER_PATH) -> SimpleTokenizer:
    """The mini suite's tokenizer: 2,514 tokens, 32 positions; EOT has the highest id."""
    return SimpleTokenizer(bpe_path=str(path), context_length=CONTEXT_LENGTH)


def count_words(work: Path) -> collections.Counter[str]:
    """How often each word occurs in labels, tags, icon names and templates.

    Held-out sets are left out.
    """
    counts: collections.Counter[str] = collections.Counter()

    def add(text: str, weight: int = 1) -> None:
        for word in _WORD.findall(text.lower()):
            counts[word] += weight

    for emoji in emoji_table(work):
        add(emoji["label"], LABEL_WEIGHT)
        for tag in emoji.get("tags", ()):
            add(tag)
    table = pd.read_parquet(table_path(work))
    for concept in table.concept[~table.emoji & (table.role != "held-out")]:
        add(concept.replace("-", " "))
    for word in FIXED_WORDS:
        add(word, TEMPLATE_WEIGHT)
    return counts


def learn_merges(counts: Mapping[str, int], merges: int) -> list[Pair]:
    """Byte-pair encoding: joins the most frequent pair of symbols again and again.

    Args:
        counts: How often each word occurs.
        merges: How many pairs to join.

    Returns:
        The pairs in the order in which they were joined; ties go to the last in sort order.
    """
    to_unicode = bytes_to_unicode()
    words: list[Word] = []
    weights: list[int] = []
    for word, count in sorted(counts.items()):
        symbols = [to_unicode[byte] for byte in word.encode("utf-8")]
        words.append((*symbols[:-1], symbols[-1] + "</w>"))
        weights.append(count)
    pairs: collections.Counter[Pair] = collections.Counter()
    places: dict[Pair, set[int]] = collections.defaultdict(set)

    def count_pairs(index: int, sign: int) -> None:
        for pair in itertools.pairwise(words[index]):
            pairs[pair] += sign * weights[index]
            (places[pair].add if sign > 0 else places[pair].discard)(index)

    for index in range(len(words)):
        count_pairs(index, +1)
    learned: list[Pair] = []
    while len(learned) < merges:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        learned.append(best)
        for index in sorted(places[best]):
            count_pairs(index, -1)
            words[index] = _join(words[index], best)
            count_pairs(index, +1)
        del pairs[best]
    return learned


def _join(word: Word, pair: Pair) -> Word:
    joined: list[str] = []
    at = 0
    while at < len(word):
        if word[at : at + 2] == pair:
            joined.append(pair[0] + pair[1])
            at += 2
        else:
            joined.append(word[at])
            at += 1
    return tuple(joined)
