"""Teacher engines behind one interface: token ids in, log-probabilities out."""
