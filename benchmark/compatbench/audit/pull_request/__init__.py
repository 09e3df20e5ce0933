"""What is asked of a pull request, as one function that runs anywhere."""

from compatbench.audit.pull_request.pull_request import PullRequest, check_pull_request

__all__ = ["PullRequest", "check_pull_request"]
