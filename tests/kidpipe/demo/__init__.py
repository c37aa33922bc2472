"""Tests of the teacher engines, on real ones made small."""
