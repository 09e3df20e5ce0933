"""Whether this machine can run a suite, and what is missing."""

FUNCTIONS = {"diagnose": "diagnosis:diagnose"}
