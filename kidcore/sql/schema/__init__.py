"""A database's tables, views and keys, whichever engine keeps them."""
