"""Transfers, which move a module to another backbone, one file each."""

if __name__ != "compatbench.transfers":
    raise ImportError("import this package as 'compatbench.transfers', not as 'transfers'")
