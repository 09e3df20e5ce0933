"""Whether this machine can run a suite, what is missing, and what is stored on it."""

FUNCTIONS = {"diagnose": "diagnosis:diagnose"}
COMMANDS = ["doctor_commands"]
