"""What a user allows: the network, and code inside pickles.

Both are environment variables, so that worker processes keep to them.
"""

from __future__ import annotations

import os

OFFLINE = "HF_HUB_OFFLINE"
TRUST_PICKLE = "COMPATBENCH_TRUST_PICKLE"


def is_offline() -> bool:
    """Whether nothing may be fetched: ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE``."""
    return _is_set(OFFLINE) or _is_set("TRANSFORMERS_OFFLINE")


def trusts_pickle() -> bool:
    """Whether a checkpoint may run code while it is read."""
    return _is_set(TRUST_PICKLE)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")
