"""Whether this machine can run a suite, what is missing, and what is stored on it."""

from compatbench.plugins import Command, Option

GROUPS = {
    "runs": "The store of a run: list what it holds, and delete what is old.",
    "cache": "The cache of image features: list what it holds, and delete what is old.",
}
_SPLIT = "compatbench.cli.options:split"
FUNCTIONS = {"diagnose": "diagnosis:diagnose"}
COMMANDS = {
    "store doctor": Command(
        "diagnose",
        shown="commands:doctor",
        note="Exits with 1 if something is missing or wrong.",
        options={
            "tasks": Option(annotation="str", repeated=True, read=_SPLIT),
            "backbones": Option(repeated=True, read=_SPLIT, completes="backbones"),
        },
        also=("data_root", "as_json", "trust_pickle"),
    ),
    "store runs ls": Command("stores:list_runs", shown="stores:show_runs", also=("as_json",)),
    "store runs prune": Command("stores:prune_runs", options={"days": Option(least=0)}),
    "store cache ls": Command("stores:list_cache", shown="stores:show_cache", also=("as_json",)),
    "store cache prune": Command(
        "stores:prune_cache",
        options={"days": Option(least=0), "everything": Option("--all")},
    ),
}
