"""A local port that stands for a TCP server elsewhere, with limits on how long it may take to answer.

TVM's RPC client waits for ever. Connected through this, it gets an error when the other side keeps silent. It is a
process of its own, because TVM's client may hold the interpreter while it waits; this file is the program too, and
needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
import time

_CHUNK = 1 << 18
_TICK = 0.2


class Relay:
    """Connects to a server, and passes on everything between it and the one client of `port`.

    Parameters
    ----------
    connect, greet, answer : seconds at most to connect, until the server's first bytes, and to any answer later.

    Raises ConnectionError when the server cannot be reached.
    """

    def __init__(self, host: str, port: int, *, connect: float, greet: float, answer: float) -> None:
        command = [sys.executable, "-I", __file__, host, str(port), str(connect), str(greet), str(answer)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        word, _, rest = self._process.stdout.readline().strip().partition(" ")
        if word != "port":
            self.close()
            raise ConnectionError(rest or "the relay did not start")
        self.port = int(rest)
        self._failure = ""

    def close(self) -> str:
        """End the connection; why it had ended before, if the client had not ended it."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            assert self._process.stdout is not None
            self._process.stdin.close()  # the relay ends with it
            word, _, rest = self._process.stdout.read().strip().partition(" ")
            self._failure = rest if word == "failed" else ""
            self._process.stdout.close()
            self._process.wait()
        return self._failure


def _main(host: str, port: str, connect: str, greet: str, answer: str) -> None:
    """Prints "port N", then "failed REASON" if it is not the client or standard input that ends it."""
    with contextlib.ExitStack() as stack:
        try:
            remote = stack.enter_context(socket.create_connection((host, int(port)), timeout=float(connect)))
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
        except OSError as error:
            print("failed", error.strerror or error, flush=True)
            return
        print("port", listener.getsockname()[1], flush=True)
        if select.select([listener, sys.stdin], [], [], float(connect))[0] != [listener]:
            return
        local = stack.enter_context(listener.accept()[0])
        for end in (local, remote):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(float(answer))
        failure = _pass_on(local, remote, float(greet), float(answer))
        if failure:
            print("failed", failure, flush=True)


def _pass_on(local: socket.socket, remote: socket.socket, greet: float, answer: float) -> str:
    """Until an end is closed; why, if it was not the client's."""
    peer = {local: remote, remote: local}
    limit, waiting, asked = greet, True, time.monotonic()
    while True:
        for source in select.select([*peer, sys.stdin], [], [], _TICK)[0]:
            if source not in peer:
                return ""  # standard input is closed: so wants the parent, or it is gone
            try:
                data = source.recv(_CHUNK)
                if data:
                    peer[source].sendall(data)
            except OSError as error:
                return f"the connection broke: {error.strerror or error}"
            if not data:
                return "" if source is local else "the server ended the connection"
            waiting, asked = source is local, time.monotonic()
            limit = limit if waiting else answer
        if waiting and time.monotonic() - asked > limit:
            return f"no answer within {limit:g} s"


if __name__ == "__main__":
    _main(*sys.argv[1:])
