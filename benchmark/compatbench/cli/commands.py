"""The core's commands: the function that each is made of, and what a shell needs beside it."""

from __future__ import annotations

from compatbench.plugins import Command, Option

CLI = "compatbench.cli"
FILE = "Path | None"

# What comes before several commands; those of the first line in the order of ``--help``.
GROUPS = {
    "module": "Modules as files: from and for other code, and for a new model.",
    "store": "What is on this machine: finished cells, features, datasets and weights.",
    "study": "Why modules survive an upgrade.",
    "maintain": "What keeps the project's results true: tuning and audits.",
    "data": "Datasets and weights, fetched and checked.",
}
COMMANDS = {
    "run": Command(
        "run",
        "measure",
        shown=f"{CLI}.run:run",
        also=("data_root", "as_json", "offline", "trust_pickle"),
        records={"compute": ("Compute",)},
    ),
    "plan": Command(
        "plan",
        "measure",
        shown=f"{CLI}.run:plan",
        also=("data_root", "as_json"),
        records={"compute": ("Compute", "device", "jobs")},
    ),
    "list": Command(
        f"{CLI}.inventory:list_names",
        "measure",
        shown=f"{CLI}.inventory:show_names",
        options={"names": Option("", completes="listed")},
        also=("as_json",),
    ),
    "report": Command(
        "report",
        "measure",
        note="Open results/report/index.html in a browser, or put the folder on any server; it "
        "makes no request outside of it.",
    ),
    "evaluate": Command(
        "evaluate",
        "upgrade",
        shown=f"{CLI}.modules:evaluate",
        options={"backbone": Option("--target")},
        also=("data_root", "as_json", "offline", "trust_pickle"),
    ),
    "new-task": Command(
        "new_task",
        "add",
        shown=f"{CLI}.inventory:new_task",
        note="The last lines show the next commands.",
        options={
            "template": Option(
                help="A prompt with {} for the class; may be repeated. The first is the zero-shot "
                "one.",
                repeated=True,
            ),
        },
        also=("as_json",),
    ),
    "new-method": Command(f"{CLI}.new_method:new_method", "add"),
    "module import": Command(
        "import_module",
        shown=f"{CLI}.modules:import_module",
        note="Without arguments the command lists the formats. For example: compatbench module "
        "import coop output/seed1 --task dtd --source vit-b16-openai",
        options={
            "format": Option("", default=None),
            "file": Option("", default=None),
            "task": Option("--task", default=None),
            "source": Option("--source", default=None),
            "out": Option(
                help="The module to write; by default FORMAT-TASK.safetensors in this folder.",
                annotation=FILE,
            ),
            "inspect": Option(
                help="Show the contents of this file, its format, and the settings that it needs.",
                annotation=FILE,
            ),
        },
        also=("as_json", "offline"),
    ),
    "module export": Command("export_module", shown=f"{CLI}.modules:export_module"),
    "module port": Command(
        "port",
        shown=f"{CLI}.modules:port",
        options={
            "backbone": Option("--target"),
            "out": Option(
                help="The file to write; by default FILE-for-MODEL in this folder.", annotation=FILE
            ),
        },
        also=("offline",),
    ),
    "store data fetch": Command(
        "fetch_data",
        shown=f"{CLI}.inventory:fetch_data",
        note="Exits with 1 if something is still missing, and says for each file what to do.",
        options={"tasks": Option("", annotation="str", repeated=True)},
        also=("data_root",),
    ),
    "store data weights": Command(
        "fetch_backbones",
        shown=f"{CLI}.inventory:fetch_backbones",
        note="Exits with 1 if something could not be fetched, and says what to do.",
        options={
            "backbones": Option("", annotation="str", repeated=True, completes="backbones"),
        },
    ),
    "maintain tune": Command(
        "tune",
        shown=f"{CLI}.run:tune",
        note="The first line of each round says how long it takes. Stop at any time; the same "
        "command continues. The last lines are for the suite's file; --write puts them there. Of a "
        "method that is sent as a pull request, the project makes the record after the merge.",
        also=("data_root", "as_json", "offline"),
        records={"compute": ("Compute", "device", "jobs")},
    ),
}
