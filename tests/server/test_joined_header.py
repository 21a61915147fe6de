from types import SimpleNamespace

from server.protocol import JoinedHeader


class Transport:
    """Keeps what is written to it, write by write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def joined(started: bool = True) -> tuple[JoinedHeader, Transport, SimpleNamespace]:
    transport, cycle = Transport(), SimpleNamespace(response_started=started)
    return JoinedHeader(transport, cycle, transport.close), transport, cycle


def test_the_header_leaves_with_the_first_of_the_body() -> None:
    header, transport, cycle = joined(started=False)
    header.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert transport.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    cycle.response_started = True
    header.write(b"HEADER")
    assert len(transport.writes) == 1
    header.write(b"one")
    header.write(b"two")
    assert transport.writes[1:] == [b"HEADERone", b"two"]


def test_an_empty_body_lets_the_header_go() -> None:
    header, transport, _ = joined()
    header.write(b"HEADER")
    header.write(b"")
    header.write(b"one")
    assert transport.writes == [b"HEADER", b"one"]


def test_without_a_body_the_header_leaves_at_the_end() -> None:
    for ends in ("flush", "close"):
        header, transport, _ = joined()
        header.write(b"HEADER")
        getattr(header, ends)()
        header.flush()
        assert transport.writes == [b"HEADER"]
        assert header.is_closing() is (ends == "close")
