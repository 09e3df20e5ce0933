"""Studies of why modules survive an upgrade: how layers have moved, and the paper's claims."""

FUNCTIONS = {
    "analyze_claims": "claims:analyze_claims",
    "analyze_layers": "layers:analyze_layers",
}
COMMANDS = ["study_commands"]
