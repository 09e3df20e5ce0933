"""The core's commands: the function that each is made of, and what a shell needs beside it."""

from __future__ import annotations

from compatbench.plugins import Command, Option

CLI = "compatbench.cli"
FILE = "Path | None"

GROUPS = {
    "data": "Fetch datasets and weights, and share few-shot draws.",
}
COMMANDS = {
    "run": Command(
        "run",
        "run",
        shown=f"{CLI}.run:run",
        also=("data_root", "offline", "trust_pickle"),
        records={"compute": ("Compute",)},
    ),
    "plan": Command(
        "plan",
        "run",
        shown=f"{CLI}.run:plan",
        also=("data_root", "device_model"),
        records={"compute": ("Compute", "device", "jobs", "decoders", "memory_budget")},
    ),
    "list": Command(
        f"{CLI}.inventory:list_names",
        "run",
        options={"names": Option("", completes="listed")},
    ),
    "leaderboard": Command(
        "leaderboard",
        "readers",
        shown=f"{CLI}.pages:leaderboard",
        note="The figures and the site of all results are those of 'compatbench report'.",
    ),
    "report": Command(
        "report",
        "readers",
        shown=f"{CLI}.pages:report",
        leave_out=("published",),
        note="Open results/report/index.html in a browser, or put the folder on any server; it "
        "makes no request outside of it.",
    ),
    "new-method": Command(f"{CLI}.new_method:new_method", "authors"),
    "tune": Command(
        "tune",
        "authors",
        shown=f"{CLI}.run:tune",
        note="The first line says how long it takes. Stop at any time; the same command continues. "
        "The last lines are for the suite's file. Add the record in results/<suite>/tuning/ to the "
        "method's pull request, or the leaderboard marks the method as not tuned.",
        also=("data_root", "offline"),
        records={"compute": ("Compute", "device", "jobs")},
    ),
    "evaluate": Command(
        "evaluate",
        "owners",
        shown=f"{CLI}.modules:evaluate",
        options={"backbone": Option("--backbone")},
        also=("data_root", "as_json", "offline", "trust_pickle"),
    ),
    "port": Command(
        "port",
        "owners",
        shown=f"{CLI}.modules:port",
        options={
            "backbone": Option("--to"),
            "transfer": Option("--with", metavar="TRANSFER"),
            "out": Option(
                help="The file to write; by default FILE-for-MODEL in this folder.", annotation=FILE
            ),
        },
        also=("offline",),
    ),
    "new-task": Command(
        "new_task",
        "owners",
        shown=f"{CLI}.inventory:new_task",
        note="The last lines show the next commands.",
        options={
            "template": Option(
                help="A prompt with {} for the class; may be repeated. The first is the zero-shot "
                "one.",
                repeated=True,
            ),
        },
    ),
    "import": Command(
        "import_module",
        "owners",
        shown=f"{CLI}.modules:import_module",
        note="Without arguments the command lists the formats. For example: compatbench import "
        "coop output/seed1 --task dtd --source vit-b16-openai",
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
        also=("offline",),
    ),
    "export": Command("export_module", "owners", shown=f"{CLI}.modules:export_module"),
    "data shots": Command(
        f"{CLI}.shots:export_shots",
        "owners",
        options={"seed": Option(most=2**32 - 1), "read": Option("--from")},
        also=("data_root",),
    ),
    "data fetch": Command(
        "fetch_data",
        "owners",
        shown=f"{CLI}.inventory:fetch_data",
        note="Exits with 1 if something is still missing, and says for each file what to do.",
        options={"tasks": Option("", annotation="str", repeated=True)},
        also=("data_root",),
    ),
    "data weights": Command(
        "fetch_backbones",
        "owners",
        shown=f"{CLI}.inventory:fetch_backbones",
        note="Exits with 1 if something could not be fetched, and says what to do.",
        options={
            "backbones": Option("", annotation="str", repeated=True, completes="backbones"),
        },
    ),
}
