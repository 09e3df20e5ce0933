"""Clone the authors' repositories, each at its commit in ``repositories.csv``.

python benchmark/authors/clone.py FOLDER
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd
import typer

REPOSITORIES = Path(__file__).with_name("repositories.csv")


def clone(folder: Path) -> None:
    """Clone the repositories that FOLDER lacks, and check out the commit of every one."""
    for repository, commit in pd.read_csv(REPOSITORIES).itertuples(index=False):
        place = folder / repository
        if not (place / ".git").exists():
            place.mkdir(parents=True, exist_ok=True)
            address = f"https://github.com/{repository}"
            subprocess.run(["git", "init", "-q"], cwd=place, check=True)
            subprocess.run(["git", "remote", "add", "origin", address], cwd=place, check=True)
        subprocess.run(["git", "fetch", "-q", "--depth=1", "origin", commit], cwd=place, check=True)
        subprocess.run(["git", "checkout", "-q", commit], cwd=place, check=True)
        print(f"{repository} at {commit[:10]}")


if __name__ == "__main__":
    typer.run(clone)
