"""The store in a file: SQLite through apsw, one writer of each process, a transaction a turn."""
