"""All commands: those of this folder, and those of the extras.

A file of commands adds them to ``groups`` when it is imported. It imports nothing heavy: the body
of a command does that.
"""

from importlib import import_module

from compatbench.cli.groups import app
from compatbench.plugins import command_modules

__all__ = ["app"]

# In the order of --help.
COMMANDS = ("run", "modules", "inventory", "new_task_command", "new_method")

for name in COMMANDS:
    import_module(f"compatbench.cli.{name}")
for module in command_modules():
    import_module(module)
