"""A deterministic simulator of services: several of them, their runs' processes and people, on one run store.

``python -m tests.simulation.services --seeds 1000`` plays that many towns, and tells which promises were not kept;
``--seed N`` plays one again. Dispatcher, timetable, queue, permits, leases and drivers are the library's own.
"""
