"""The version of kidpipe that runs."""

from importlib import metadata


def kidpipe_version() -> str:
    """As the installed package says; `unknown` in a clone that was never installed."""
    try:
        return metadata.version("kidpipe")
    except metadata.PackageNotFoundError:
        return "unknown"
