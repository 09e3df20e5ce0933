"""Real results of a small suite, to be forged in copies."""

from honest_results import forged, honest

__all__ = ["forged", "honest"]
