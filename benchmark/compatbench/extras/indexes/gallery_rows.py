"""What a row of ``results/retrieval/`` says; measured in ``galleries.py``."""

KEY = ("source", "target", "gallery", "queries", "way", "pairs")
FIGURES = ("recall@1", "recall@5", "recall@10", "map")  # in percent
COLUMNS = ("source", "target", "gallery", "queries", "images", "asked", "way", "pairs", "seeds")
COLUMNS += FIGURES
POOLED = "all"  # the gallery of all test sets
QUERIES = ("texts", "images", "captions")
OLD, CEILING = "old model", "re-encoded"  # beside the ways: no upgrade, and all of its work
