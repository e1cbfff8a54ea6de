"""Writes a run into the run store while it goes on."""
