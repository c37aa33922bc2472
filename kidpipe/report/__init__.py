"""What is behind `kidpipe report`: one self-contained HTML page out of a store."""
