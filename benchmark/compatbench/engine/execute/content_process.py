"""A process of this machine that may import methods, transfers and formats.

A method file is code, and runs when it is imported. It could change how predictions are scored. So
content is imported in processes of their own: each answers questions of a run with plain data, or
runs cells. The process that scores, ranks and writes imports none.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from compatbench.files.processes import end_with_parent, send_data

if TYPE_CHECKING:
    from compatbench.engine.execute.dispatcher import Job
    from compatbench.engine.worker import Tell


def serve(connection: Connection) -> None:
    """Answer the questions of a run, and become its worker when a job comes."""
    end_with_parent()

    def tell(kind: str, value: Any) -> None:
        send_data(connection, (kind, value))

    from compatbench.engine.plan import make_plan
    from compatbench.engine.plan_data import write_data
    from compatbench.engine.stored_rows import find_outdated_rows
    from compatbench.engine.worker import tell_problems

    plan: Any = None
    with tell_problems(tell):
        while True:
            kind, argument = connection.recv()
            if kind == "request":
                plan = make_plan(argument())
                tell("plan", write_data(plan))
            elif kind == "rows":
                tell("outdated", sorted(find_outdated_rows(plan, argument)))
            elif kind == "function":
                tell("result", argument())
            else:
                plan = None
                job, device = argument
                work(connection, tell, job, device)


def work(connection: Connection, tell: Tell, job: Job, device: str) -> None:
    """Run the cells that are received, without end."""
    from compatbench.engine.worker import make_worker, run_cell

    worker = make_worker(job.store, job.cache, job.compute.on(device), job.inode)
    tell("ready", None)
    while True:
        run_cell(worker, connection.recv(), tell)
