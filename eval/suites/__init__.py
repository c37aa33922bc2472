"""Test suites: databases on which wrong SQL is found out."""
