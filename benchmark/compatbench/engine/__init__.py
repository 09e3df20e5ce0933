"""From a request to predictions: plan, keys, workers and the run store.

Every problem with a user's input, files, folders or machine is raised as a ``CompatbenchError``:
one line that says what to change.
"""
