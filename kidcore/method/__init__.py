"""The rules of the method: masking, filling, stored distributions, objectives."""
