"""A recorded run as one HTML file that needs nothing else: no server, no internet, no other file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from anabranch.base.errors import ReportError
from anabranch.base.files import write_whole
from anabranch.monitoring.pages.frame import TEMPLATE
from anabranch.monitoring.pages.looks import disarm
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.pages.recorded_run import earlier_seconds, last_lines, lines_of, read_model
from anabranch.monitoring.pages.run_page import RunPage
from anabranch.runs import RunStore


def report_html(model: PageModel, *, state: str | None = None, **about: Any) -> str:
    """The report of a run as text; `about` is what its page is given beside that."""
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    page = RunPage(model, state=lambda: state, **about)
    text: str = file_html(page.root, INLINE, title=disarm(f"{model.flow_name} {model.run_id}", 200), template=TEMPLATE)
    return text


def write_report(store: RunStore, run_id: str, path: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a recorded run.

    Parameters
    ----------
    store
        Where the run is.
    run_id
        Its id, or a beginning of it.
    path
        The file; default: ``anabranch-RUN.html`` in the current directory. One that is there is replaced as a whole.

    Raises
    ------
    RunStoreError
        There is no such run, or it cannot be read.
    ReportError
        The file cannot be written.
    """
    record, model = read_model(store, run_id)
    text = report_html(
        model,
        state=record.state,
        log_rows=lambda: last_lines(store, record.run_id),
        earlier=earlier_seconds(store, model),
        artifacts=lambda: store.artifacts(record.run_id),
        lines_of=lambda slug, index: lines_of(store, record.run_id, slug, index),
    )
    file = Path(path) if path is not None else Path(f"anabranch-{record.run_id}.html")
    try:
        write_whole(file, text, mode=0o600)  # parameters and failures are in it: for its owner to pass on
    except OSError as error:
        raise ReportError(f"the report cannot be written to {str(file)!r}: {error.strerror or error}") from error
    return file
