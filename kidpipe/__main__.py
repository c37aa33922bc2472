"""`python -m kidpipe`, and `torchrun ... -m kidpipe`: the command line, whatever lies in the working folder."""

from kidpipe import own_packages

own_packages.claim()

# After the claim: this loads kidcore.
from kidpipe.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
