"""Remove the caller's settings from the environment.

`conftest` imports this before anything else: some libraries read their variables only once.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import partial

# Variables of this program and of libraries that it uses; GIT_ and HOME because of git.
FAMILIES = (
    *("COMPATBENCH_", "GIT_", "GITHUB_", "HF_", "HUGGING", "RAY_", "SLURM_", "TRANSFORMERS_"),
    *("XDG_", "COLUMNS", "LINES", "CLICOLOR", "FORCE_COLOR", "NO_COLOR", "TTY_", "LC_", "LANG"),
)
KEPT = {"COMPATBENCH_AUTHORS", "COMPATBENCH_LONG_TESTS", "COMPATBENCH_SNAPSHOTS", "GIT_SSL_CAINFO"}

for variable in {*os.environ} - KEPT:
    if variable.startswith(FAMILIES):
        del os.environ[variable]
HOME = tempfile.mkdtemp(prefix="home-")
os.environ |= {"HOME": HOME, "LANG": "C.UTF-8", "TERM": "dumb"}
atexit.register(partial(shutil.rmtree, HOME, ignore_errors=True))
