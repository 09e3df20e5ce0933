"""Damaged files of every kind are refused in one line, or read as a valid file.

Any changed byte of a file with a checksum is noticed.
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
def test_damaged_file_is_refused_in_one_line_or_read(good: Good, seed: int) -> None:
    content, how = mutate(random.Random(seed), good.content)
    status, why = good.read(content)
    assert status in ("refused", "read"), f"{how}: {why}"


def test_damage_tests_notice_a_failing_reader(tmp_path: Path) -> None:
    """Another exception and a wrong result are failures."""

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
def test_any_changed_byte_of_a_sealed_file_is_noticed(good: Good) -> None:
    """Each byte is changed, the file is cut, and bytes are added."""
    for place, content in good.other_bytes(1):
        assert good.read(content)[0] == "refused", place
    for end in range(0, len(good.content), 7):
        assert good.read(good.content[:end])[0] == "refused", end
    for more in (b" ", b"\0"):
        assert good.read(good.content + more)[0] == "refused"
