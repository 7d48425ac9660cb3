"""`python -m ldapmfa` is `ldapmfa`."""

from ldapmfa.cli import main

if __name__ == "__main__":
    main()
