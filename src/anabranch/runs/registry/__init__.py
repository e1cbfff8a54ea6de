"""Flows by name, with their schedules, for services."""
