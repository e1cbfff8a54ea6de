"""Seeds of towns that soon find planted faults, with strings hashed as in ``python -m tests.simulation.services``.

They are of the way in which towns are drawn today: where that changes, ``--planted`` finds others.
"""

SEEDS = {
    "a-time-is-dealt-with-before-its-slot-is-written": 205,
    "a-time-is-missed-at-once": 0,
    "flows-have-as-many-runs-as-are-due": 2,
    "nobody-looks-for-wishes-to-cancel": 1,
    "permits-are-not-given-back": 0,
    "runs-may-overlap": 1,
    "the-end-of-a-slot-is-not-recorded": 100,
    "the-lease-is-not-renewed": 0,
    "there-is-always-room": 2,
    "who-was-put-down-is-not-called": 2,
}
"""By planted fault."""
