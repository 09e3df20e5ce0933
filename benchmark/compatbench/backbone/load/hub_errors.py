"""Explain errors of the Hugging Face Hub's client in one line."""

from __future__ import annotations

from compatbench.messages import first_line


def explain_hub_error(error: Exception, repository: str, file: str) -> str:
    """Return why a file of a repository cannot be read or written, and what to do.

    The client raises the errors of its HTTP library, which differs between versions.
    """
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"its authors give access on request: ask for it at {constants.ENDPOINT}/{repository}, "
            "then log in with 'hf auth login' or set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or your token may not see it"
    # Where the Hub refuses a file, the client may say that the cache does not have it.
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return f"the Hub refuses your token ({status}); log in with 'hf auth login' or set HF_TOKEN"
    if isinstance(error, errors.LocalEntryNotFoundError):  # some versions count it among the next
        return "the Hub does not answer, and the cache of this machine does not have it; try again"
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository has no {file}"
    return first_line(error).strip(" .")
