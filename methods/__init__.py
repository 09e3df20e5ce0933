"""The method adapters: one file each. The harness finds them by looking into this folder."""

if __name__ != "compatbench.methods":
    raise ImportError("import this package as 'compatbench.methods', not as 'methods'")
