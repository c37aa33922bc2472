"""What is behind `kidpipe compare`."""
