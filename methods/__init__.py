"""Method adapters, one file each."""

if __name__ != "compatbench.methods":
    raise ImportError("import this package as 'compatbench.methods', not as 'methods'")
