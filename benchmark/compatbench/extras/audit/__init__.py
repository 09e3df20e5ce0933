"""Audits committed results: is every number one that the code beside it makes?"""

from compatbench.plugins import Command, Option

FUNCTIONS = {"audit_results": "audit:audit_results"}
COMMANDS = {
    "maintain audit": Command(
        "audit_results",
        shown="commands:audit",
        note="Exits with 1 if anything is found.",
        options={
            "suites": Option(
                "--suite",
                "Suite to audit: a name, or the YAML file of one that is not installed; may be "
                "repeated. By default every folder.",
                repeated=True,
            ),
            "cells": Option(least=0),
            "unverified": Option(
                help="Suite whose rows may stand unchecked where its weights or images are not "
                "here; may be repeated.",
                repeated=True,
            ),
        },
        also=("cards", "data_root", "as_json", "offline", "trust_pickle"),
    ),
}
