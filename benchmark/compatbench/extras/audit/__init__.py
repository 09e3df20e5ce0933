"""Audits committed results: is every number one that the code beside it makes?"""

from compatbench.extras.audit.audit import Audit, audit_results
from compatbench.extras.audit.findings import Finding, summarise

__all__ = ["Audit", "Finding", "audit_results", "summarise"]
