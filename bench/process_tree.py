"""A process in; the ones that it started, theirs included, out."""

from pathlib import Path


def process_tree(pid: int) -> list[int]:
    """The process itself first; those of all its threads."""
    found = [pid]
    try:
        threads = list((Path("/proc") / str(pid) / "task").iterdir())
    except OSError:
        return found
    for thread in threads:
        try:
            children = (thread / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            found += process_tree(int(child))
    return found
