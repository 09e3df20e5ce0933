"""The table of results, measures and rankings."""
