"""Starts of the page that fail say so at once, before anything heavy is loaded."""

from __future__ import annotations

import socket

import pytest

from animatediff.errors import UserError
from animatediff.ui.launch import check_address


@pytest.mark.parametrize("host", ["203.0.113.7", "no host"])
def test_an_address_that_is_none_of_this_machine(host: str) -> None:
    with pytest.raises(UserError, match=f"^cannot listen on {host} .*`host` is an address of this machine"):
        check_address(host, None)


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"`port` {port} is taken"):
            check_address("127.0.0.1", port)
    check_address("127.0.0.1", None)
    check_address("0.0.0.0", None)
