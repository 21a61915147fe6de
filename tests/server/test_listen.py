"""The listening socket."""

import socket

from server.listen import GIVEN_UP, bind


def test_connections_give_up_on_peers_that_fall_silent() -> None:
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * GIVEN_UP
            probes = [socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
            interval, count = (accepted.getsockopt(socket.IPPROTO_TCP, one) for one in probes)
            idle = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            assert idle + interval * count <= GIVEN_UP
