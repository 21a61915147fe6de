import json
import logging

import pytest

from server.logs import REQUEST_ID, JsonFormatter, TextFormatter


def record(message: str, **extra: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "decant.access", "levelname": "INFO", "msg": message, **extra})


def test_a_json_line_has_the_request_and_its_fields() -> None:
    token = REQUEST_ID.set("r-1")
    try:
        line = json.loads(JsonFormatter().format(record("done\nit", fields={"status": 200})))
    finally:
        REQUEST_ID.reset(token)
    assert (line["message"], line["status"], line["request_id"], line["level"]) == (
        "done\nit",
        200,
        "r-1",
        "info",
    )
    assert line["time"].endswith("Z")


def test_an_exception_is_part_of_the_line() -> None:
    try:
        raise KeyError("x")
    except KeyError as error:
        info = (KeyError, error, error.__traceback__)
    assert "KeyError" in json.loads(JsonFormatter().format(record("m", exc_info=info)))["exception"]
    assert "KeyError" in TextFormatter().format(record("m", exc_info=info))


def test_a_text_line_names_the_request_if_there_is_one() -> None:
    assert TextFormatter().format(record("hello")).endswith("hello")
    token = REQUEST_ID.set("r-2")
    try:
        assert TextFormatter().format(record("hello")).endswith("hello [r-2]")
    finally:
        REQUEST_ID.reset(token)


@pytest.mark.parametrize("style", ["text", "json"])
def test_configure_sets_levels_and_one_handler(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.logs import configure

    log = logging.getLogger("decant")
    before = (log.handlers, log.level, log.propagate)
    try:
        configure("warning", style)  # type: ignore[arg-type]
        assert (len(log.handlers), log.level) == (1, logging.WARNING)
    finally:
        log.handlers, log.level, log.propagate = before
