"""The steps that bring a database up to date; run by `ldapmfa.store.database.upgrade` through Alembic."""
