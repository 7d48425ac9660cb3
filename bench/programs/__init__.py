"""Small servers of our own that run as processes of their own: `python -m bench.programs.NAME`."""
