"""The embedded default: a generator of text-to-SQL data and the small models trained on it."""
