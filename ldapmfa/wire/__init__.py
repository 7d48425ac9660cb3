"""Bytes <-> values: BER elements, LDAP messages, distinguished names, PROXY headers. Pure."""
