"""Measure the main job, from a clone to a written leaderboard.

python benchmark/speed/main_job.py            # 45 minutes on 2 cores; writes main_job.json
python benchmark/speed/main_job.py gda,coop   # these methods only; writes nothing

It clones the last commit of this repository, makes an environment, installs compatbench there, and
runs all methods of the mini suite. The figures of other processors in the file are kept.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compatbench.engine.cell import provenance
from compatbench.files.processes import count_cores

HERE = Path(__file__).parent
RESULTS = HERE / "main_job.json"
JOB = """\
git clone --quiet "$1" clone
cd clone
python3 -m venv .venv
. .venv/bin/activate
pip install --quiet -e .
compatbench run --methods "$2"
"""


def measure(methods: str) -> dict[str, float]:
    """Run the job for these methods in a new folder. Return its CPU and wall seconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["bash", "-e", "-c", JOB, "job", str(HERE.parents[1]), methods]
        start = time.monotonic()
        subprocess.run(command, cwd=folder, check=True)
        wall_seconds = time.monotonic() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cores": count_cores(),
        "cpu_seconds": round(used.ru_utime + used.ru_stime),
        "wall_seconds": round(wall_seconds),
    }


def main(arguments: list[str]) -> None:
    """Measure the methods that are named, or all; keep the figures of all."""
    methods = arguments[0] if arguments else "all"
    figures = measure(methods)
    print(json.dumps(figures))
    if methods != "all":
        return
    processors = json.loads(RESULTS.read_text(encoding="utf-8"))
    processors[provenance()["processor"]] = figures
    RESULTS.write_text(json.dumps(processors, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
