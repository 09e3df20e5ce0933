"""Turning a module into a new model's joint space, from words alone (docs/alignment.md)."""
