"""Whether this machine can run a suite, and what is missing."""

from compatbench.plugins import Command, Option

FUNCTIONS = {"diagnose": "diagnosis:diagnose"}
COMMANDS = {
    "doctor": Command(
        "diagnose",
        "owners",
        shown="commands:doctor",
        note="Exits with 1 if something is missing or wrong.",
        options={
            "tasks": Option(
                "--task",
                "Look at a task's images: a name or a glob; may be repeated.",
                "str",
                repeated=True,
            ),
            "backbones": Option(
                "--backbone",
                "Look at a backbone: a card's name, MODEL/TAG, or a file; may be repeated.",
                repeated=True,
                completes="backbones",
            ),
        },
        also=("data_root", "trust_pickle"),
    ),
}
