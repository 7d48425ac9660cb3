"""`ldapmfa doctor`: what is wrong with the installation, or soon will be, and which programs it breaks.

Promised here: nothing is changed, and no secret is shown. Not in here: the command itself (`command`), so that
importing this costs nothing.
"""
