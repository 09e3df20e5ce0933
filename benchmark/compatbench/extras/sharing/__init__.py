"""Modules and results on the Hugging Face Hub."""

from compatbench.plugins import Command

FUNCTIONS = {
    "pull_module": "hub:pull_module",
    "pull_results": "hub:pull_results",
    "push_module": "hub:push_module",
    "push_results": "hub:push_results",
}
ADDRESSES = {"hf": "hub:pull_module"}
COMMANDS = {
    "module push": Command("commands:push", also=("cards",)),
    "module pull": Command("commands:pull", also=("offline",)),
}
