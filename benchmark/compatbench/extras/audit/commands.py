"""What ``compatbench maintain audit`` prints."""

from __future__ import annotations

from rich.markup import escape

from compatbench.cli.command import Call
from compatbench.cli.output import say
from compatbench.extras.audit.findings import summarise


def audit(call: Call) -> int:
    """Shows the findings; 1 if there are any."""
    as_json = call.shell["as_json"]
    audited = call(progress=lambda line: None if as_json else say(escape(line), style="dim"))
    if call.prints_json(audited):
        return int(bool(audited.findings))
    for line in summarise(audited.findings):
        say(f"[bold red]wrong[/] {escape(line)}")
    for note in audited.notes:
        say(f"[yellow]note[/] {escape(note)}")
    say(
        f"suites: {len(audited.suites)}, method files: {audited.methods}, rows: {audited.rows:,}; "
        f"scored again: {audited.scored:,}; run again: {len(audited.cells)} cells "
        f"(--seed {audited.seed}); findings: {len(audited.findings)}"
    )
    for name, rows in audited.unchecked.items():
        say(f"[yellow]not verified[/] {escape(name)}: {rows:,} rows cannot be made again here")
    return int(bool(audited.findings))
