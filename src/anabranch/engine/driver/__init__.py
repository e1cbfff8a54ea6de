"""Waits for what happens, asks the machine, and does what it decides."""
