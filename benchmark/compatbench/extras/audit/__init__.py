"""Audits of committed results: is every number the one that the code beside it makes?"""

FUNCTIONS = {"audit_results": "audit:audit_results", "submit_rows": "submit:submit_rows"}
COMMANDS = ["audit_command", "submit_command"]
