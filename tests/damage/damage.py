"""Damage files of every kind, as disks, editors, merges and attackers do, and read them.

A damaged file must be refused in one line (``CompatbenchError``), or read as something that could
have been written. A file with a checksum must be refused or read unchanged. Any other exception,
several lines, or more than a few seconds are failures.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from targets import Target

from compatbench.errors import CompatbenchError

MOST_SECONDS = 5.0
# Bytes that a parser may ignore: white space, and letters of numbers.
SLY = b"\t\n\r 0Ee+-"

Mutation = Callable[[random.Random, bytes], bytes]

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n"
for before, name in zip("abcdefgh", "bcdefghi", strict=True):
    aliases = ",".join([f"*{before}"] * 9)
    LAUGHS += f"{name}: &{name} [{aliases}]\n"
TEXTS = (
    *("\n", ": ", "- ", "[", "]", "{", "}", ",", ";", "'", '"', "#", "|", ">", "? ", "\t", " "),
    *("&x ", "*x", "<<: *x", "!!python/object:os.system ", "!!set ", "!!binary ", "---\n", "...\n"),
    *("null", "true", "~", "0x", "0o7", "1e9", "1e400", "-1", "NaN", ".nan", "Infinity", "-.inf"),
    *("9" * 25, "9" * 5000, "0x" + "f" * 5000, "2020-13-45", "1:1:1:1", "[" * 50, "{" * 50),
    *("../", "/etc/passwd", "..\\", "C:\\", "~root", "\u202e", "\u2028", "\ud7ff", "é", "𝔸"),
    *("<script>", "](javascript:x)", "`", "$(x)", "%s%n", "{}", "{0.__class__}", "\\x00", LAUGHS),
)
FRAGMENTS = tuple(text.encode() for text in TEXTS)
NO_TEXT = (b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0")  # NUL, and bytes that are no UTF-8
BRACKETS = ((b"[", b"]"), (b'{"a":', b"}"), (b"- ", b""))
DEEP: list[bytes] = []
for depth, (start, end) in itertools.product((100, 5_000, 100_000), BRACKETS):
    DEEP += [start * depth, start * depth + end * depth]


def splice(removed: tuple[int, ...], put: Sequence[bytes]) -> Mutation:
    """Remove some bytes somewhere, and put something there."""

    def change(rng: random.Random, content: bytes) -> bytes:
        start = rng.randint(0, len(content))
        return content[:start] + rng.choice(put) + content[start + rng.choice(removed) :]

    return change


def of_lines(change: Callable[[list[bytes], int, int], object]) -> Mutation:
    """Change two lines, which may be the same."""

    def mutation(rng: random.Random, content: bytes) -> bytes:
        lines = content.split(b"\n")
        change(lines, rng.randrange(len(lines)), rng.randrange(len(lines)))
        return b"\n".join(lines)

    return mutation


def flip_bits(rng: random.Random, content: bytes) -> bytes:
    if not content:
        return content
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def replace_value(rng: random.Random, content: bytes) -> bytes:
    """Replace the text between two separators."""
    marks = [n for n, byte in enumerate(content) if byte in b',:\n[]{}"']
    if len(marks) < 2:
        return content
    which = rng.randrange(len(marks) - 1)
    return content[: marks[which] + 1] + rng.choice(FRAGMENTS) + content[marks[which + 1] :]


def repeat(rng: random.Random, content: bytes) -> bytes:
    """Repeat a part, such as a key."""
    start = rng.randint(0, len(content))
    return content[: start + rng.choice((4, 32, 256))] + content[start:]


def zero_page(rng: random.Random, content: bytes) -> bytes:
    """Empty a page, as if a crash had prevented its writing."""
    start = rng.randint(0, len(content))
    stop = min(len(content), start + rng.choice((16, 512, 4096)))
    return content[:start] + bytes(stop - start) + content[stop:]


def laugh(lines: list[bytes], which: int, _: int) -> None:
    """Put a billion laughs, aliases of aliases, in place of a field's value."""
    lines[which] = lines[which].split(b":")[0] + b": *i"
    lines.insert(0, LAUGHS.encode())


def swap(lines: list[bytes], a: int, b: int) -> None:
    lines[a], lines[b] = lines[b], lines[a]


MUTATIONS: dict[str, Mutation] = {
    "bits flipped": flip_bits,
    "cut off": lambda rng, content: content[: rng.randint(0, len(content))],
    "a hole": splice((1, 2, 8, 64, 512), (b"",)),
    "something put in": splice((0,), FRAGMENTS),
    "something replaced": splice((1, 2, 4, 8, 16), FRAGMENTS),
    "a value replaced": replace_value,
    "a part twice": repeat,
    "a line twice": of_lines(lambda lines, which, _: lines.insert(which, lines[which])),
    "lines swapped": of_lines(swap),
    "a line dropped": of_lines(lambda lines, which, _: lines.pop(which)),
    "bytes that are no text": splice((0,), NO_TEXT),
    "an empty page": zero_page,
    "deep nesting": splice((0,), DEEP),
    "a billion laughs": of_lines(laugh),
    "a byte-order mark": lambda _, content: b"\xef\xbb\xbf" + content,
    "Windows line ends": lambda _, content: content.replace(b"\n", b"\r\n"),
    "nothing left": lambda *_: b"",
}


def mutate(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Return a damaged copy, and the names of its mutations."""
    names = rng.choices(list(MUTATIONS), k=rng.choice((1, 1, 1, 2, 3)))
    for name in names:
        content = MUTATIONS[name](rng, content)
    return content, " + ".join(names)


@dataclass(frozen=True)
class Good:
    """A good file of a kind, the result of reading it, and a folder for damaged copies."""

    target: Target
    content: bytes
    expected: object
    folder: Path

    @classmethod
    def make(cls, target: Target, folder: Path) -> Good:
        """Write a good file and read it."""
        content = target.good(folder)
        work = folder / "work"
        work.mkdir()
        (work / target.name).write_bytes(content)
        return cls(target, content, target.read(work / target.name), work)

    def read(self, content: bytes) -> tuple[str, str]:
        """Read other content in its place.

        Returns:
            ``refused``, ``read`` or ``failed``, and the reason of a failure or refusal.
        """
        file = self.folder / self.target.name
        file.write_bytes(content)
        start = time.perf_counter()
        try:
            value = self.target.read(file)
        except CompatbenchError as error:
            text = str(error)
            if len(text.splitlines()) != 1 or not text.strip():
                return "failed", f"the message is not one line: {text!r:.200}"
            outcome = "refused", text
        # Any other exception is a failure, except Ctrl-C.
        except (Exception, SystemExit, GeneratorExit) as error:
            return "failed", f"{type(error).__name__}: {error!s:.200}"
        else:
            if value is None:  # a store sets a damaged file aside, a cache computes it again
                outcome = "refused", "set aside"
            elif self.target.sealed and value != self.expected:
                return "failed", "the content read differs from the content written"
            else:
                outcome = "read", ""
        seconds = time.perf_counter() - start
        if seconds > MOST_SECONDS:
            return "failed", f"it took {seconds:.1f} s"
        return outcome

    def other_bytes(self, most: int) -> Iterator[tuple[int, bytes]]:
        """Yield contents with one changed byte, and its place: a flipped bit, or ignored bytes.

        Args:
            most: the number of values of ``SLY`` for each byte.
        """
        for place, byte in enumerate(self.content):
            values = {SLY[(place + i) % len(SLY)] for i in range(most)}
            values.add(byte ^ 1 << place % 8)
            values.discard(byte)
            for value in values:
                yield place, self.content[:place] + bytes([value]) + self.content[place + 1 :]
