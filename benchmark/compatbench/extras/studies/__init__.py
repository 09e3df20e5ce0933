"""Why a module survives an upgrade: layers, depth, embeddings, and the paper's claims."""

from compatbench.plugins import REQUIRED, Command, Option

FUNCTIONS = {
    "analyze_claims": "claims:analyze_claims",
    "analyze_classes": "classes:analyze_classes",
    "analyze_depth": "depth:analyze_depth",
    "analyze_embeddings": "embeddings:analyze_embeddings",
    "analyze_layers": "layers:analyze_layers",
}
SECTIONS = {
    "classes": "class_pages:CLASSES_SECTION",
    "classes answer": "class_pages:ANSWER",
}
FIGURES = {"classes": "class_pages:CLASSES_FIGURE"}
GROUPS = {
    "analyze": "An upgrade analysed: which layers have moved, at which depth a module survives, "
    "and how the class embeddings have moved.",
}
_STUDY = {
    "suite": Option(default="mini"),
    "device": Option(default="auto"),
    "as_csv": Option("--csv", "Print CSV.", "bool", False),
    "figure": Option(help="Write the figure to this SVG file.", annotation="Path | None"),
}
COMMANDS = {
    "study analyze layers": Command(
        "analyze_layers",
        shown="commands:show_study",
        options={"images": Option(least=4), **_STUDY},
        also=("as_json",),
        records={"options": ("study:StudyOptions", "suite", "device")},
    ),
    "study analyze depth": Command(
        "analyze_depth",
        shown="commands:show_study",
        options={
            **_STUDY,
            "tasks": Option("--tasks", default=REQUIRED),
            "jobs": Option(default=None),
            "out": Option(default="."),
            "rates": Option(
                "--lr",
                "One learning rate for all fits; by default each has its own.",
                "float",
                least=1e-9,
                read="commands:one_rate",
            ),
        },
        also=("as_json",),
        records={"options": ("study:StudyOptions", "suite", "device", "out", "jobs")},
    ),
    "study analyze embeddings": Command(
        "analyze_embeddings",
        shown="commands:show_study",
        options={**_STUDY, "out": Option(default=".")},
        also=("as_json",),
        records={"options": ("study:StudyOptions", "suite", "device", "out")},
    ),
    "study claims": Command(
        "analyze_claims",
        shown="commands:claims",
        options={"markdown": Option(help="Print Markdown.", annotation="bool", default=False)},
        also=("as_json",),
    ),
}
