"""The request log: every request a row in PostgreSQL, through a spool on disk that survives this process."""
