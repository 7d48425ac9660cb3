"""Decisions: what a session may do next, and how a login ends. Pure: no socket, clock, chance or log."""
