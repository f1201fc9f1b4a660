from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aps_deploy.verification.json_text import json_text

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_DOCUMENTS = st.recursive(_LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=40)


@given(_DOCUMENTS)
def test_it_is_the_same_document(document: Any) -> None:
    text = json_text(document)
    assert json.loads(text) == document
    assert text.endswith("\n")


def test_tables_of_numbers_take_one_line_and_the_rest_is_broken() -> None:
    document = {"numbers": [[0, 1.5], None] * 500, "long": ["a" * 60, "b" * 60], "short": {"a": 1}}
    lines = json_text(document).splitlines()
    assert len(lines) == 1 + 1 + 4 + 1 + 1
    assert lines[-2] == '  "short": {"a": 1}'


def test_what_is_no_json_is_refused() -> None:
    for value in (math.nan, [math.inf], {"a": {"b": [1, math.nan] * 100}}):
        with pytest.raises(ValueError):
            json_text(value)
