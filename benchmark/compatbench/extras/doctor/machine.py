"""What this machine has: versions of packages, devices, folders and the room on their disks."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from compatbench.backbone.load import WEIGHTS_FOLDER, is_offline
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.dataset_folders import VARIABLE
from compatbench.files.processes import count_cores
from compatbench.files.sizes import format_bytes

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "transformers")


def describe_machine(out: Path) -> dict[str, str]:
    """Versions, devices, folders and the room on their disks, in words."""
    devices = [f"cpu ({count_cores()} cores)"]
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        devices.append(f"cuda:{i} ({facts.name}, {format_bytes(facts.total_memory)})")
    devices += ["mps"] * torch.backends.mps.is_available()
    cache = default_cache_folder()
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "devices": ", ".join(devices),
        "runs": f"{out / 'runs'} ({_free(out)} free)",
        "cache": f"{cache} ({_free(cache)} free)",
        "data": os.environ.get(VARIABLE) or f"{VARIABLE} is not set",
        "weights": os.environ.get(WEIGHTS_FOLDER) or f"{WEIGHTS_FOLDER} is not set",
        "network": "not used" if is_offline() else "used by 'run' for weights, never by 'doctor'",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed" + (" (for 'hf:' backbones)" if package == "transformers" else "")


def _free(folder: Path) -> str:
    """Room on the disk that a folder is on, or will be on."""
    here = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return format_bytes(shutil.disk_usage(here).free)
