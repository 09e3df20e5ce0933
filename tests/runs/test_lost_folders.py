"""A run whose output folder disappears: renamed, or on a disk that was unmounted."""

from __future__ import annotations

from pathlib import Path

import pytest

import compatbench as cb
from compatbench.engine.execute.events import Event


class Mover:
    """Renames the folder of a run at a moment: as its workers start, or when a cell has ended."""

    def __init__(self, folder: Path, moment: str) -> None:
        self.folder = folder
        self.moment = moment

    def move(self, moment: str) -> None:
        if moment == self.moment and self.folder.exists():
            self.folder.rename(self.folder.with_name("moved"))

    def on_start(self, plan: object, workers: int) -> None:
        self.move("started")

    def on_event(self, event: Event) -> None:
        self.move(event.kind)


@pytest.mark.parametrize(
    ("moment", "jobs"),
    [
        ("started", 1),
        ("measured", 1),
        ("finished", 1),
        pytest.param("started", 2, marks=pytest.mark.slow),
        pytest.param("finished", 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_whose_folder_disappears_stops_and_writes_nothing(
    tmp_path: Path, moment: str, jobs: int
) -> None:
    out = tmp_path / "out"
    mover = Mover(out, moment)
    with pytest.raises(cb.CompatbenchError, match="is its disk still mounted") as raised:
        cb.run(
            "smoke",
            "zeroshot",
            out=out,
            compute=cb.Compute(jobs=jobs),
            progress=False,
            on_start=mover.on_start,
            on_event=mover.on_event,
        )
    assert len(str(raised.value).splitlines()) == 1
    assert not out.exists()
    moved = tmp_path / "moved"
    assert not [path for path in moved.rglob("*.csv") if path.is_file()]
    assert not (moved / "leaderboard.md").exists()
