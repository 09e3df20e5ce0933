"""The task cards, the suites and the embedded mini suite."""

if __name__ != "compatbench.tasks":
    raise ImportError("import this package as 'compatbench.tasks', not as 'tasks'")
