"""The trainer: shards in, a student checkpoint out; the teacher is never loaded."""
