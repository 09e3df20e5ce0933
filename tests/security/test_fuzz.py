"""Spoilt files of every kind: refused in one line, or read as what could have been written.

No byte of a file with a checksum can change without being noticed.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[2] / "benchmark" / "faults"))

from fuzz import try_once
from mutations import mutate
from targets import TARGETS, Target


@pytest.fixture(scope="module", params=TARGETS, ids=lambda target: target.kind.replace(" ", "-"))
def spoilable(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Target, bytes, object, Path]:
    """A target, a good file's bytes, what reading it gives, and a folder to work in."""
    target: Target = request.param
    folder = tmp_path_factory.mktemp("spoilable")
    good = target.good(folder)
    work = folder / "work"
    work.mkdir()
    (work / target.name).write_bytes(good)
    expected = target.read(work / target.name)
    assert try_once(target, good, expected, work)[0] == "read"
    return target, good, expected, work


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_a_spoilt_file_is_refused_in_one_line_or_read(
    spoilable: tuple[Target, bytes, object, Path], seed: int
) -> None:
    target, good, expected, work = spoilable
    content, how = mutate(random.Random(seed), good)
    status, why = try_once(target, content, expected, work)
    assert status in ("refused", "read"), f"{how}: {why}"


def test_a_reader_that_fails_is_found(tmp_path: Path) -> None:
    """The tests above would see a traceback, several lines, and a wrong answer."""

    def read(file: Path) -> object:
        raise KeyError(file)

    assert try_once(Target("x", "x", lambda _: b"", read), b"", None, tmp_path)[0] == "failed"
    wrong = Target("x", "x", lambda _: b"", lambda _: 2, sealed=True)
    assert try_once(wrong, b"", 1, tmp_path)[0] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoilable", [one for one in TARGETS if one.sealed], ids=lambda one: one.kind, indirect=True
)
def test_a_change_of_any_byte_of_a_sealed_file_is_noticed(
    spoilable: tuple[Target, bytes, object, Path],
) -> None:
    """Every place, with a flipped bit or with what a parser might pass over; cuts, and more."""
    target, good, expected, work = spoilable
    draw = random.Random(1)
    for place, byte in enumerate(good):
        others = {ord(draw.choice("\t\n\r E0")) if place % 2 else byte ^ 1 << draw.randrange(8)}
        others |= {ord("E")} if byte == ord("e") else {ord("\n")} if byte == ord(" ") else set()
        for value in others - {byte}:
            changed = good[:place] + bytes([value]) + good[place + 1 :]
            assert try_once(target, changed, expected, work)[0] == "refused", (place, value)
    for content in [*(good[:i] for i in range(0, len(good), 7)), good + b" ", good + b"\0"]:
        assert try_once(target, content, expected, work)[0] == "refused"
