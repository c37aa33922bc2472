"""The artifact store: shards, the graph of stages, plans and manifests."""
