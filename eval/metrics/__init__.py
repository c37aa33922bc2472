"""Figures beside execution accuracy."""
