"""Real results of a small suite, to be forged in copies."""

from honest_results import forged, forged_words, honest, honest_words

__all__ = ["forged", "forged_words", "honest", "honest_words"]
