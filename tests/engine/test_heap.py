"""Freed memory stays with the process that asks for it again."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")

# Page faults of 50 blocks of 8 MiB, each freed before the next.
COUNT = """
import resource, sys, torch
if sys.argv[1] == "keep":
    from compatbench.engine.heap import keep_freed_memory
    assert keep_freed_memory()
torch.set_num_threads(1)
torch.ones(2**21)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.ones(2**21), torch.ones(2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@glibc
def test_a_block_that_was_freed_is_not_asked_for_again() -> None:
    faults = {
        kind: int(subprocess.check_output([sys.executable, "-c", COUNT, kind], text=True))
        for kind in ("give back", "keep")
    }
    pages = 50 * 8 * 2**20 / resource.getpagesize()
    assert faults["keep"] < 0.1 * pages
    assert faults["keep"] < faults["give back"]
