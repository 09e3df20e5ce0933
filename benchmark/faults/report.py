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
    """The page, whose text names the figures by where they are in results.json."""
    sharing = found["sharing"]
    rows = [
        f"| {of['files']} | {name} | {of['bytes']:,} | {of['changes']:,} | {of['unnoticed']} |"
        for name, of in found["corruption"].items()
        if isinstance(of, dict)
    ]
    return (
        (HERE / "page.md")
        .read_text()
        .format_map(
            found
            | {
                "rows": "\n".join(rows),
                "lost": sharing["cells lost"] + sharing["cells never fitted"],
                "encoded": sharing["entries encoded"] - sharing["cache entries"],
                "shared_differ": int(not sharing["same results"]),
                "disk_differ": int(not found["disk"]["same results"]),
            }
        )
    )


if __name__ == "__main__":
    PAGE.write_text(render(json.loads((HERE / "results.json").read_text())))
