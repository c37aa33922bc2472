"""A value for JSON in; the same without numbers that JSON has no words for out."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """The same with None for NaN and infinities, however deep they stand; tuples become lists."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
