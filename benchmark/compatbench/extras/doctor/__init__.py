"""Reports of what a suite needs, what of it is on this machine, and what is stored here."""

FUNCTIONS = {"diagnose": "diagnosis:diagnose"}
COMMANDS = ["doctor_commands"]
