"""Decides what a run does next; pure: no clock, no I/O, no Dask."""
