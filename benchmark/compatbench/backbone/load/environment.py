"""Environment variables: where weights are, and what the user allows.

They are read when they are needed, so that worker processes follow them, too.
"""

from __future__ import annotations

import os
from pathlib import Path

OFFLINE = "HF_HUB_OFFLINE"
TRUST_PICKLE = "COMPATBENCH_TRUST_PICKLE"
WEIGHTS_FOLDER = "COMPATBENCH_WEIGHTS"


def is_offline() -> bool:
    """Whether downloads are forbidden: ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE``."""
    return _is_set(OFFLINE) or _is_set("TRANSFORMERS_OFFLINE")


def trusts_pickle() -> bool:
    """Whether a checkpoint may run code while it is read."""
    return _is_set(TRUST_PICKLE)


def weights_folder() -> Path | None:
    """The user's own folder of weights, if one is set."""
    folder = os.environ.get(WEIGHTS_FOLDER)
    return Path(folder).expanduser() if folder else None


def hub_cache() -> Path:
    """The cache of the Hugging Face hub, from the hub's own variables."""
    if folder := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(folder).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "huggingface" / "hub"


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")
