"""The tables of the run store, in SQLite and PostgreSQL."""
