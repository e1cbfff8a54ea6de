"""Calls functions in processes of their own, and ends those."""
