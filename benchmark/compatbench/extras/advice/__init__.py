"""What an upgrade costs, and what an owner of a module should do."""

FUNCTIONS = {"advise": "advise:advise", "predict": "predict:predict"}
