"""Makes docs/reliability.md from page.md and results.json.

python benchmark/faults/measure.py
python benchmark/faults/report.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"


def render(found: dict[str, Any]) -> str:
    """The page."""
    kills, sharing, disk = found["kills"], found["sharing"], found["disk"]
    lines = [
        f"| {of['files']} | {name} | {of['bytes']:,} | {of['changes']:,} | {of['unnoticed']} |"
        for name, of in found["corruption"].items()
        if isinstance(of, dict)
    ]
    return (
        (HERE / "page.md")
        .read_text()
        .format(
            cells=found["cells"],
            machine=found["machine"],
            kills=kills["kills"],
            drivers=kills["of drivers"],
            workers=kills["of workers"],
            runs=kills["runs"],
            rounds=kills["rounds"],
            differing=kills["rounds with other results"],
            repeated=kills["finished cells run again or lost"],
            processes=sharing["processes"],
            busy=sharing["that fitted something"],
            failed=sharing["that failed"],
            lost=sharing["cells lost"] + sharing["cells never fitted"],
            doubled=sharing["cells fitted more than once"],
            entries=sharing["cache entries"],
            encoded=sharing["entries encoded"] - sharing["cache entries"],
            shared_differ=int(not sharing["same results"]),
            corruption="\n".join(lines),
            how=disk["how"],
            stopped=disk["runs stopped by a full disk"],
            unclear=disk["of these without one clear line"],
            half=disk["files half-written"],
            disk_lost=disk["finished cells lost"],
            disk_differ=int(not disk["same results"]),
        )
    )


if __name__ == "__main__":
    PAGE.write_text(render(json.loads((HERE / "results.json").read_text())))
