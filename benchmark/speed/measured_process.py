"""What a process takes: CPU seconds, and the most memory that it holds."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

# Between this process and the measured one stands a small one: a child's peak begins with its
# parent's.
_BETWEEN = """\
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def measure_process(*words: str, **how: Any) -> tuple[float, float]:
    """CPU seconds and peak MiB of a Python process with these arguments.

    Args:
        how: ``cwd`` and ``env``, as of ``subprocess.run``.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, "-c", _BETWEEN, sys.executable, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **how)
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak
