"""Text-to-SQL data, database schemas, SQL texts and results."""
