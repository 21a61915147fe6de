import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.body import parse_json
from server.errors import ApiError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_valid_json_is_read_as_the_standard_library_reads_it(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"a": "\xff"}', "UTF-8"),
        (b"[" * 5000, "nested too deeply"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"a": -Infinity}', "not valid JSON"),
        (b'{"a": 1e999}', "finite"),
        (b'{"a": [1, {"b": 18446744073709551616}]}', "64 bits"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b'{"a": 1} x', "not valid JSON"),
    ],
)
def test_what_is_not_json_is_refused_without_repeating_it(body: bytes, says: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_json(body)
    assert caught.value.status_code == 400
    assert says in caught.value.detail
    assert "1844" not in caught.value.detail


def test_a_number_out_of_range_is_named_by_its_path() -> None:
    with pytest.raises(ApiError) as caught:
        parse_json(b'{"a": [0, {"b": -1e400}]}')
    assert caught.value.param == "a.1.b"


def test_the_largest_integers_pass() -> None:
    assert parse_json(b"[9223372036854775807, -9223372036854775808]") == [2**63 - 1, -(2**63)]
