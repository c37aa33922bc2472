"""Settings: their kinds, their defaults, where their values come from."""
