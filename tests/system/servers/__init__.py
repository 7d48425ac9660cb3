"""Real directory servers for the tests: each a child process on loopback, below a temporary directory.

`people` says who is in them, `common` holds what they share (processes, ports, certificates, the admin's
connection), and `samba`, `slapd` and `ds389` start one server each.
"""
