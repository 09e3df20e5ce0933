"""Make the generated sections of ``docs/findings.md``."""

from __future__ import annotations

import adapted_modules
import embedding_spaces
import new_classes
import paper_claims
import real_task
import rosetta_rivals
import several_targets
import survival_features
import word_gains
from pages import Page

# In the order of the page.
PROGRAMS = (
    word_gains,
    survival_features,
    several_targets,
    paper_claims,
    new_classes,
    real_task,
    adapted_modules,
    embedding_spaces,
    rosetta_rivals,
)


def make_page() -> Page:
    """Return the sections of all findings."""
    sections: dict[str, str] = {}
    for program in PROGRAMS:
        sections |= program.make_sections()
    return Page(sections)
