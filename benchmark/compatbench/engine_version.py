"""The version of the harness in keys: what names all of its code that decides numbers."""

from __future__ import annotations

ENGINE_VERSION = 1
"""Raised by hand with every change of a number: features, fits, logits, draws, measures.

Files of the harness can be moved and renamed freely. What keeps the version honest are the
golden outputs in ``tests/golden/``: a number that moves without a new version fails them.
"""
