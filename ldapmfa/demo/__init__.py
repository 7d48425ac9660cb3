"""The embedded directory (ldaptor) and the `ldapmfa demo` run."""
