"""A web server that lists a folder, as an image source may."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def serve(root: Path, *, broken: set[str]) -> Iterator[str]:
    """Serve the folder and yield the URL. broken: paths answered with an error, may change. /endless never ends."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(root))

        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path in broken:
                self.send_error(500)
            elif self.path.startswith("/endless"):
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                with contextlib.suppress(OSError):
                    for _ in range(10_000):
                        self.wfile.write(b"<a href='x.png'>x</a>" * 1000)
            else:
                super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
