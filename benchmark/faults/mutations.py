"""Ways to spoil a file: as disks, editors, merges and enemies do."""

from __future__ import annotations

import random
from collections.abc import Callable

Mutation = Callable[[random.Random, bytes], bytes]

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(f'*{before}' for _ in range(9))}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
FRAGMENTS = (
    *("\n", ": ", "- ", "[", "]", "{", "}", ",", ";", "'", '"', "#", "|", ">", "? ", "\t", " "),
    *("&x ", "*x", "<<: *x", "!!python/object:os.system ", "!!set ", "!!binary ", "---\n", "...\n"),
    *("null", "true", "~", "0x", "0o7", "1e9", "1e400", "-1", "NaN", ".nan", "Infinity", "-.inf"),
    *("9" * 25, "9" * 5000, "0x" + "f" * 5000, "2020-13-45", "1:1:1:1", "[" * 50, "{" * 50),
    *("../", "/etc/passwd", "..\\", "C:\\", "~root", "\u202e", "\u2028", "\ud7ff", "é", "𝔸"),
    *("<script>", "](javascript:x)", "`", "$(x)", "%s%n", "{}", "{0.__class__}", "\\x00", LAUGHS),
)


def _place(rng: random.Random, content: bytes) -> int:
    return rng.randint(0, len(content))


def flip_bits(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: random.Random, content: bytes) -> bytes:
    return content[: _place(rng, content)]


def delete(rng: random.Random, content: bytes) -> bytes:
    start = _place(rng, content)
    return content[:start] + content[start + rng.choice((1, 2, 8, 64, 512)) :]


def insert(rng: random.Random, content: bytes) -> bytes:
    start = _place(rng, content)
    return content[:start] + rng.choice(FRAGMENTS).encode() + content[start:]


def replace(rng: random.Random, content: bytes) -> bytes:
    start = _place(rng, content)
    stop = start + rng.choice((1, 2, 4, 8, 16))
    return content[:start] + rng.choice(FRAGMENTS).encode() + content[stop:]


def replace_value(rng: random.Random, content: bytes) -> bytes:
    """What stands between two separators, by something else."""
    marks = [n for n, byte in enumerate(content) if byte in b',:\n[]{}"']
    if len(marks) < 2:
        return content
    which = rng.randrange(len(marks) - 1)
    value = rng.choice(FRAGMENTS).encode()
    return content[: marks[which] + 1] + value + content[marks[which + 1] :]


def repeat(rng: random.Random, content: bytes) -> bytes:
    """A part twice: a key or a line that is given two times."""
    start = _place(rng, content)
    part = content[start : start + rng.choice((4, 32, 256))]
    return content[:start] + part + content[start:]


def repeat_line(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    which = rng.randrange(len(lines))
    return b"\n".join([*lines[: which + 1], *lines[which:]])


def swap_lines(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines)


def drop_line(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    del lines[rng.randrange(len(lines))]
    return b"\n".join(lines)


def add_bytes(rng: random.Random, content: bytes) -> bytes:
    """Bytes that are no UTF-8, and NUL."""
    start = _place(rng, content)
    return (
        content[:start]
        + rng.choice((b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0"))
        + (content[start:])
    )


def zero_page(rng: random.Random, content: bytes) -> bytes:
    """A page that a crash never wrote."""
    start = _place(rng, content)
    stop = min(len(content), start + rng.choice((16, 512, 4096)))
    return content[:start] + bytes(stop - start) + content[stop:]


def nest(rng: random.Random, content: bytes) -> bytes:
    """Very deep nesting, in place of a value."""
    start = _place(rng, content)
    depth = rng.choice((100, 5_000, 100_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"- ", b"")))
    return content[:start] + opening * depth + closing * rng.choice((0, depth)) + content[start:]


def laugh(rng: random.Random, content: bytes) -> bytes:
    """A billion laughs: aliases of aliases, in place of some field's value."""
    lines = content.split(b"\n")
    which = rng.randrange(len(lines))
    field = lines[which].split(b":")[0]
    return b"\n".join([LAUGHS.encode(), *lines[:which], field + b": *i", *lines[which + 1 :]])


def add_mark(_: random.Random, content: bytes) -> bytes:
    return b"\xef\xbb\xbf" + content


def end_lines_as_windows_does(_: random.Random, content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


def empty(_: random.Random, __: bytes) -> bytes:
    return b""


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bits, truncate, delete, insert, replace, replace_value, replace_value, repeat),
    *(repeat_line, swap_lines, drop_line, add_bytes, zero_page, nest, laugh, add_mark),
    *(end_lines_as_windows_does, empty),
)


def mutate(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """A damaged copy, and the names of what was done to it."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        mutation = rng.choice(MUTATIONS)
        content = mutation(rng, content)
        done.append(mutation.__name__)
    return content, " + ".join(done)
