"""Runs registered flows when they are due, in processes of their own."""
