"""The ground: what the wings share, and what knows nothing of them."""
