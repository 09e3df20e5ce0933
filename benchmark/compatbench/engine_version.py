"""The version of the harness in keys. It names all harness code that decides numbers."""

from __future__ import annotations

ENGINE_VERSION = 1
"""Raise it by hand with every change of a number: features, fits, logits, draws, measures.

Files of the harness can be moved and renamed freely. The golden outputs in ``tests/golden/`` keep
the version honest: a number that changes without a new version fails them.
"""
