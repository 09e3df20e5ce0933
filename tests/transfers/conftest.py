"""The comparison of a transfer with its formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor


@pytest.fixture
def beside_naive_code(
    record_property: Callable[[str, object], None],
) -> Callable[..., None]:
    """Compare a transfer with its formula, in double precision.

    A run together with ``benchmark/authors`` writes the rows of the table in ``docs/authors.md``.
    """

    def compare(name: str, ours: Tensor, naive: Tensor, steps: int = 0) -> None:
        gap = float((ours - naive).abs().max() / naive.abs().max())
        record_property("whole_fit", [name, "naive code", steps, None, None, gap])
        assert gap < 1e-10, f"{name}: {gap:.1e}"

    return compare
