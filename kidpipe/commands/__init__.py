"""The bodies of the CLI's commands; with kidpipe.cli the only code here that looks up to pipeline, train and eval."""
