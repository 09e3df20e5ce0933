"""Step ``fetch``: the pinned archives from the npm registry, checked by hash."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.progress import track

from .sets import Package, emoji_names, icon_sets


def archives_folder(work: Path) -> Path:
    return work / "npm"


def fetch(work: Path) -> None:
    """Downloads every archive that is not there yet and checks every hash.

    Args:
        work: The working folder.

    Raises:
        ValueError: An archive has another hash than sets.yaml says.
    """
    folder = archives_folder(work)
    folder.mkdir(parents=True, exist_ok=True)
    packages = [emoji_names(), *(s.package for s in icon_sets().values())]
    for package in track(packages, "fetch"):
        path = folder / package.archive
        if not path.exists():
            subprocess.run(
                ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
            )
        _check(path, package)


def _check(path: Path, package: Package) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise ValueError(
            f"{path} has sha256 {found}, but sets.yaml says {package.sha256}. "
            "Delete the file and fetch again; if it stays, the registry serves another archive."
        )


def read_json(work: Path, package: Package, member: str) -> Any:
    """Reads one JSON file out of an archive.

    Args:
        work: The working folder.
        package: The archive's package.
        member: Path inside the package, such as ``icons.json``.

    Returns:
        The parsed file, or None where the archive has no such file.
    """
    with tarfile.open(archives_folder(work) / package.archive) as archive:
        try:
            file = archive.extractfile(f"package/{member}")
        except KeyError:
            return None
        return None if file is None else json.load(file)


@lru_cache(maxsize=4)
def emoji_table(work: Path) -> list[dict[str, Any]]:
    """The English emoji of emojibase: one dict per emoji with label, tags, group, skins."""
    return read_json(work, emoji_names(), "en/data.json")
