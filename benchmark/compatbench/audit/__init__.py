"""Audits committed results: is every number one that the code beside it makes?"""

from compatbench.audit.audit import Audit, Options, audit_results
from compatbench.audit.findings import Finding, summarise

__all__ = ["Audit", "Finding", "Options", "audit_results", "summarise"]
