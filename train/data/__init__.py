"""From stored shards to packs of tokens."""
