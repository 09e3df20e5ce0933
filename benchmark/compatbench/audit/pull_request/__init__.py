"""What is asked of a pull request, as one command that runs anywhere."""

from compatbench.audit.pull_request.ci import Ci, check_change

__all__ = ["Ci", "check_change"]
