"""What JSON has no words for becomes null, and everything else stays."""

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kidcore.finite import finite

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


@given(_VALUES)
def test_every_value_is_strict_json_and_finite_ones_are_what_they_were(value: Any) -> None:
    strict = json.loads(json.dumps(value), parse_constant=lambda _name: None)
    assert json.loads(json.dumps(finite(value), allow_nan=False)) == strict


def test_tuples_and_infinities() -> None:
    assert finite({"a": (1.5, math.inf, [-math.inf, (math.nan,)])}) == {"a": [1.5, None, [None, [None]]]}
