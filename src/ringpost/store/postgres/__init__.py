"""The store on a PostgreSQL server, through asyncpg: as many machines on it as there are."""
