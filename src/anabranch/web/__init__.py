"""One HTTP server, one guard, one session store: for live pages, for services, and for metrics alike."""
