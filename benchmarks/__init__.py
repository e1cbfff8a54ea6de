"""Measurements beside bare Dask in the same run: ``python -m benchmarks``."""
