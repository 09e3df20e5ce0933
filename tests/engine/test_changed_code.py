"""Code of the repository that changed while its version did not is told, not taken as done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import compatbench as cb
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.method.identity import hash_sources
from compatbench.methods.simpleshot import SimpleShot
from compatbench.methods.taskres import TaskRes

SUITE = """name: one
title: One
upgrades: [[mini-clip, mini-eva-clip]]
tasks: [mini-weather]
shots: [1]
seeds: [1]
training: {views: 1}
"""


@pytest.mark.slow
def test_a_method_whose_code_changed_is_not_all_done(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(SUITE)

    def run(keep: bool = False) -> cb.Results:
        return cb.run(str(tmp_path / "one.yaml"), "simpleshot", out=tmp_path, keep=keep,
                      compute=cb.Compute(jobs=1))  # fmt: skip

    run()
    kept = tmp_path / "runs" / "code" / "simpleshot@simpleshot.1.txt"
    assert kept.read_text() == hash_sources(SimpleShot) != hash_sources(TaskRes)
    run()
    write_atomic(kept, b"of other code")
    line = "method 'simpleshot': its code changed since version 1 was run in .*; raise 'version'"
    with pytest.raises(CompatbenchError, match=line):
        run()
    assert run(keep=True).failures == ()
    run()


def test_the_hash_is_of_the_file_its_imports_and_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, shared, data = (tmp_path / name for name in ("mine.py", "shared.py", "mine.json"))
    text = "import shared\nfrom compatbench.methods.simpleshot import SimpleShot\n\n\n"
    text += "class Mine(SimpleShot):\n    card = None\n"
    mine.write_text(text)
    shared.write_text("X = 1\n")
    data.write_text("{}")
    monkeypatch.setattr("compatbench.method.identity.class_file", lambda cls: mine)

    class Mine(SimpleShot):
        card = replace(SimpleShot.card, files=("mine.json",))

    hashes = [hash_sources(Mine)]
    for path, changed in ((mine, f"# why\n{text}"), (shared, "X = 2\n"), (data, "[]")):
        path.write_text(changed)
        hashes.append(hash_sources(Mine))
    assert hashes[0] == hashes[1]  # a comment
    assert len({*hashes}) == 3
