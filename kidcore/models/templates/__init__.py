"""How a prompt is written: the built-in templates, what templates see of a database, and which tables fit."""
