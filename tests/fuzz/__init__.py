"""Coverage-guided fuzzing of what strangers' octets reach first: `python -m tests.fuzz --seconds 120`.

Each target in `targets`, `conversation` and `answers` takes any octets and raises if a promise of the code is broken: an
exception that is not documented, or an outcome that depends on how the input was split. Inputs that found a branch are
kept, minimised, in corpus/TARGET/.
"""
