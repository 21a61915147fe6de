import time

from hypothesis import given
from hypothesis import strategies as st

from server.scrub import TOO_MANY, scrub, words

VOCABULARY = frozenset({"json_schema", "messages"})


def test_values_are_taken_out_and_the_words_of_the_api_stay() -> None:
    body = {"response_format": {"type": "json_schema", "schema": {"x": "SECRET"}}}
    message = "With json_schema, 'SECRET' is not allowed."
    assert scrub(message, body, VOCABULARY) == "With json_schema, '…' is not allowed."


def test_a_shortened_value_is_taken_out_too() -> None:
    value = "A" * 12 + "bcd" * 40
    assert scrub(f"got {value[:50]}...", {"prompt": value}, VOCABULARY) == "got …..."


def test_a_value_inside_a_word_of_the_api_stands_there() -> None:
    assert scrub("json_schema: schema is bad", {"a": "schema"}, VOCABULARY) == "json_schema: … is bad"


def test_escaped_forms_and_keys_are_taken_out() -> None:
    body = {"a": "line\none", "SECRETKEY": 1}
    assert "line" not in scrub(f"got {'line' + chr(10) + 'one'!r}", body, VOCABULARY)
    assert "SECRETKEY" not in scrub("unknown key SECRETKEY", body, VOCABULARY)


@given(st.text(min_size=4, max_size=80), st.text(max_size=40), st.text(max_size=40))
def test_no_value_of_four_characters_survives(value: str, before: str, after: str) -> None:
    assert value not in scrub(before + value + after, [{"k": value}], frozenset()) or value in ("…" * 4,)


def test_words_of_a_schema() -> None:
    schema = {"properties": {"n": {"enum": ["x", "y"]}, "m": {"const": "z"}}}
    assert words(schema) == {"n", "m", "x", "y", "z"}


def test_a_body_of_a_million_values_is_scrubbed_in_no_time() -> None:
    body = {"metadata": [f"{i:06}" for i in range(1_000_000)]}
    began = time.process_time()
    assert scrub("temperature must not be 000123", body, VOCABULARY) == TOO_MANY
    assert scrub("bad", body["metadata"][:15_000], VOCABULARY) == "bad"
    assert time.process_time() - began < 2
