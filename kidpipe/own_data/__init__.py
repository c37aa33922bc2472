"""What is behind `kidpipe init --questions`: a table of questions and databases in any usual form in, a data folder out."""
