"""Whatever shows a run: terminal, notebook, pictures, pages, metrics, traces, notifiers."""
