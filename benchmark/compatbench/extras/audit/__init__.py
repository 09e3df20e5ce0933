"""Audits of committed results: is every number the one that the code beside it makes?"""

FUNCTIONS = {"audit_results": "audit:audit_results"}
COMMANDS = ["audit_command"]
