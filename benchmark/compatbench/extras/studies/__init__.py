"""Why a module survives an upgrade: how the layers have moved, and the founding paper's claims."""

FUNCTIONS = {
    "analyze_claims": "claims:analyze_claims",
    "analyze_layers": "layers:analyze_layers",
}
COMMANDS = ["study_commands"]
