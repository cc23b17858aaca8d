"""What is particular to a database: SQLite and PostgreSQL, reached and spoken to in one way."""
