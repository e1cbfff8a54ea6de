"""Pages of runs: aggregates (`model`), figures made of them, and the server that shows them while runs go on."""
