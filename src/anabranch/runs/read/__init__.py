"""Looks back at recorded runs."""
