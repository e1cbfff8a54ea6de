"""Runs units, where they are sent."""
