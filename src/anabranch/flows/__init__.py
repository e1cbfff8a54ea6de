"""`Flow`, and what can be done with one: run, submit, load, save, replay, use as a task."""
