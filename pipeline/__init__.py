"""The build: one file a stage, source examples in, Parquet shards out."""
