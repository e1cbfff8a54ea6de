"""Goes on with a recorded run."""
