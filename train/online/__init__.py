"""Methods whose student makes sequences during training."""
