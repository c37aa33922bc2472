"""Builds with several engines: who makes which shard, on this machine or on a Ray cluster."""
