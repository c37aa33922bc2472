"""Which engine computes, to be written beside what it made. Imports nothing: `kidpipe status` reads it too."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineFacts:
    """What computes: the same model's numbers differ in their last digits between two of these."""

    name: str
    version: str
    device: str
    """cpu, or the name of the GPU."""
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} on {self.device} in {self.dtype}"
