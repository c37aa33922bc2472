"""Tests of kidcore.sql.schema."""
