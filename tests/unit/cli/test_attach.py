"""What `attach` and `cancel` write of a detached run."""

from __future__ import annotations

from anabranch.cli.attach import _write_status
from anabranch.flows.handle import RunStatus


def test_a_status_says_where_tasks_run():
    parse = {
        "state": "Running",
        "message": "",
        "width": 1000,
        "done": 400,
        "failed": 2,
        "running": "running: [7] on w\x1b1",
    }
    tasks = {"parse": parse, "load": {"state": "Running", "running": "on w2"}, "late": {"state": "Submitted"}}
    assert _write_status(RunStatus("r", "etl", "Running", tasks=tasks)) == [
        "etl r: Running",
        r"  parse: Running 400/1,000, 2 failed; running: [7] on w\x1b1",
        "  load: Running; on w2",
        "  late: Submitted",
    ]
