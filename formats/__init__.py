"""Checkpoint formats of other code, one file each."""

if __name__ != "compatbench.formats":
    raise ImportError("import this package as 'compatbench.formats', not as 'formats'")
