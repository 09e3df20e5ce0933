"""Audits committed results: is every number one that the code beside it makes?"""

FUNCTIONS = {"audit_results": "audit:audit_results"}
COMMANDS = ["audit_command"]
