"""Modules and results on the Hugging Face Hub."""

FUNCTIONS = {
    "pull_module": "hub:pull_module",
    "pull_results": "hub:pull_results",
    "push_module": "hub:push_module",
    "push_results": "hub:push_results",
}
ADDRESSES = {"hf": "hub:pull_module"}
