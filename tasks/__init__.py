"""Cards of tasks, backbones and suites."""

if __name__ != "compatbench.tasks":
    raise ImportError("import this package as 'compatbench.tasks', not as 'tasks'")
