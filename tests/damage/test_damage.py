"""Spoilt files of every kind: refused in one line, or read as what could have been written.

No byte of a file with a checksum can change without being noticed.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from damage import Good, mutate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import TARGETS, Target


def named(target: Target) -> str:
    return target.kind.replace(" ", "-")


@pytest.fixture(scope="module", params=TARGETS, ids=named)
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Good:
    """A good file of every kind."""
    file = Good.make(request.param, tmp_path_factory.mktemp("good"))
    assert file.read(file.content)[0] == "read"
    return file


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_a_spoilt_file_is_refused_in_one_line_or_read(good: Good, seed: int) -> None:
    content, how = mutate(random.Random(seed), good.content)
    status, why = good.read(content)
    assert status in ("refused", "read"), f"{how}: {why}"


def test_a_reader_that_fails_is_found(tmp_path: Path) -> None:
    """The tests above would see a traceback and a wrong answer."""

    def read(file: Path) -> object:
        raise KeyError(file)

    broken = Target("x", "x", lambda _: b"", read)
    assert Good(broken, b"", None, tmp_path).read(b"")[0] == "failed"
    wrong = Target("x", "x", lambda _: b"", lambda _: 2, sealed=True)
    assert Good(wrong, b"", 1, tmp_path).read(b"")[0] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize(
    "good", [target for target in TARGETS if target.sealed], ids=named, indirect=True
)
def test_a_change_of_any_byte_of_a_sealed_file_is_noticed(good: Good) -> None:
    """Every place, with a flipped bit and with what a parser might pass over; cuts, and more."""
    for place, content in good.other_bytes(1):
        assert good.read(content)[0] == "refused", place
    cuts = (good.content[:end] for end in range(0, len(good.content), 7))
    for content in (*cuts, good.content + b" ", good.content + b"\0"):
        assert good.read(content)[0] == "refused"
