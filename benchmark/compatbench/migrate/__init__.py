"""Brings files of an older layout to the present one: ``results/`` and ``runs/``."""

from compatbench.migrate.files import Rewrite, write_rewrites
from compatbench.migrate.results import migrate_results
from compatbench.migrate.runs import migrate_runs

__all__ = ["Rewrite", "migrate_results", "migrate_runs", "write_rewrites"]
