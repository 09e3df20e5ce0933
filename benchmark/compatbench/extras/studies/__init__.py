"""Why a module survives an upgrade: how the layers have moved, and the founding paper's claims."""

from compatbench.plugins import Command, Option

FUNCTIONS = {
    "analyze_claims": "claims:analyze_claims",
    "analyze_layers": "layers:analyze_layers",
}
COMMANDS = {
    "study layers": Command(
        "analyze_layers",
        shown="commands:show_layers",
        options={
            "images": Option(least=4),
            "device": Option(default="auto"),
            "as_csv": Option("--csv", "Print CSV.", "bool", False),
            "figure": Option(help="Write the figure to this SVG file.", annotation="Path | None"),
        },
        also=("as_json",),
    ),
    "study claims": Command(
        "analyze_claims",
        shown="commands:show_claims",
        options={"markdown": Option(help="Print Markdown.", annotation="bool", default=False)},
        also=("as_json",),
    ),
}
