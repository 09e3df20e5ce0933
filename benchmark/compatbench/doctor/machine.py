"""What of the machine matters: versions, devices, the cache folder and the room for it."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from compatbench.backbone.load import WEIGHTS_FOLDER, is_offline
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.roots import VARIABLE
from compatbench.files.sizes import format_bytes

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "transformers")


def describe_machine() -> dict[str, str]:
    """Facts for people, by what they are of."""
    folder = default_cache_folder()
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "devices": ", ".join(_devices()),
        "cache": f"{folder} ({_free(folder)} free)",
        "data": os.environ.get(VARIABLE) or f"{VARIABLE} is not set",
        "weights": os.environ.get(WEIGHTS_FOLDER) or f"{WEIGHTS_FOLDER} is not set",
        "network": "not used" if is_offline() else "used by 'run' for weights, never by 'doctor'",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed" + (" (for 'hf:' backbones)" if package == "transformers" else "")


def _devices() -> list[str]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [f"cpu ({cores} cores)"]
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        found.append(f"cuda:{i} ({facts.name}, {format_bytes(facts.total_memory)})")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _free(folder: Path) -> str:
    """Room on the disk that a folder is on, or will be on."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return format_bytes(shutil.disk_usage(folder).free)
