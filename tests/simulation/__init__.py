"""A deterministic simulator: real flows, drivers, machines, workers' code and stores, in a world made from one seed.

``python -m tests.simulation --seeds 100000 --jobs 2`` plays that many worlds, counts what failed by kind, and shrinks
one of each kind to a tape that a test can keep. ``--seed N`` plays one again, and tells what happened.
"""
