"""What ``diagnose`` returns for a suite that is here, and for parts that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

import compatbench as cb
from compatbench.errors import CompatbenchError


def test_the_mini_suite_can_run_anywhere(tmp_path: Path) -> None:
    looked_at: list[str] = []
    found = cb.diagnose(out=tmp_path, progress=looked_at.append)
    assert found.ready
    assert found.suite == "mini"
    frame = found.to_frame()
    assert frame["name"].tolist() == looked_at
    assert set(frame["kind"]) == {"task", "backbone"}
    assert set(frame["state"]) == {"found"}
    assert found.machine["runs"].startswith(f"{tmp_path / 'runs'} (")


def test_what_is_missing_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMPATBENCH_DATA", raising=False)
    found = cb.diagnose(tasks="dtd", backbones=["mini-clip"])
    assert not found.ready
    [missing] = found.unusable
    assert (missing.name, missing.state) == ("dtd", "missing")
    assert "--data-root" in missing.fix
    with pytest.raises(CompatbenchError, match="did you mean dtd"):
        cb.diagnose(tasks=["dt"])
