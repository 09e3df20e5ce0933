"""Ways of bringing a module along, one file each."""

if __name__ != "compatbench.transfers":
    raise ImportError("import this package as 'compatbench.transfers', not as 'transfers'")
