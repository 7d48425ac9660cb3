"""Twisted; does what it is told: the listening side, the directory's side, and what runs a login between them."""
