"""An object store that accepts connections and answers none."""

import contextlib
import socket
import threading


class SilentStore:
    """A server on `url`. connections: of its clients, open until the end, or closed at once if `closes`."""

    def __init__(self, *, closes: bool = False) -> None:
        self.connections: list[socket.socket] = []
        self._closes = closes
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._server.settimeout(0.1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def _accept(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._server.accept()
                self.connections.append(connection)
                if self._closes:
                    connection.close()

    def __enter__(self) -> "SilentStore":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(60)
        for each in (self._server, *self.connections):
            each.close()
