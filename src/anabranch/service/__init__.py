"""The service: one process of several that run registered flows when they are due."""
