"""Plan, identity, cells, measuring and the store.

What is wrong with a user's words, files, folders or machine is raised, all over this room, as
``CompatbenchError``: one line that says what to change.
"""
