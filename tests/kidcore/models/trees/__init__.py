"""Tests of shared prefixes."""
