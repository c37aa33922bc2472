"""Hostile SQL in, rows or a reason out: a pool of killable worker processes (outer ring) around read-only engines (inner)."""
