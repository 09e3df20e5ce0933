"""Audits committed results: is every number one that the code beside it makes?"""

FUNCTIONS = {
    "audit_results": "audit:audit_results",
    "check_pull_request": "pull_request:check_pull_request",
}
