"""Measures of predictions, rows and upgrades: registered functions, in files of this folder."""

from compatbench.results.measures.measure_registry import (
    Answers,
    Measure,
    list_measures,
    measure,
    score,
)

__all__ = ["Answers", "Measure", "list_measures", "measure", "score"]
