"""The Caddyfiles of the documents, run by Caddy itself: which requests get an account."""

import http.client
import http.server
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.web import free_port

ROOT = Path(__file__).resolve().parents[2]
HEADER = "Remote-User"
pytestmark = pytest.mark.skipif(
    not shutil.which("caddy"), reason="caddy is missing: apt install caddy"
)


class Upstream(http.server.BaseHTTPRequestHandler):
    """Both servers behind the proxy: the authentication server, and the web process, which returns what it received."""

    def do_GET(self) -> None:
        is_question = self.path.startswith("/api/authz/")
        is_known = "sso=editor" in (self.headers["Cookie"] or "")
        self.send_response(200 if is_known or not is_question else 401)
        if is_question and is_known:
            self.send_header(HEADER, "editor")
        self.end_headers()
        if not is_question:
            self.wfile.write(json.dumps({"account": self.headers[HEADER]}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def proxy(upstream: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Caddy with the example of deploy/README.md, without TLS and with the servers of this test behind it."""
    text = (ROOT / "deploy" / "README.md").read_text("utf-8")
    [example] = re.findall(r"^```\n(retort\.example\.org \{.*?^\}\n)```$", text, re.S | re.M)
    port = free_port()
    for name in ("authelia:9091", "web:8000"):
        assert name in example
        example = example.replace(name, f"127.0.0.1:{upstream}")
    example = example.replace("retort.example.org", f"http://127.0.0.1:{port}")
    folder = tmp_path_factory.mktemp("caddy")
    (folder / "Caddyfile").write_text("{\n    admin off\n}\n" + example)
    process = subprocess.Popen(
        ["caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"],
        cwd=folder,
        env={"HOME": str(folder)},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            try:
                get(port, "/health/live")
                break
            except ConnectionError:
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def get(port: int, path: str, **headers: str) -> tuple[int, str | None]:
    """Return the status, and the account that the web process received."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(
        "GET", path, headers={name.replace("_", "-"): v for name, v in headers.items()}
    )
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, json.loads(body)["account"] if answer.status == 200 else None


def test_a_page_needs_a_login_and_gets_the_account_of_the_login(proxy: int) -> None:
    assert get(proxy, "/") == (401, None)
    assert get(proxy, "/admin/", Cookie="sso=editor") == (200, "editor")


@pytest.mark.parametrize("name", ["Remote_User", "remote_user"])
def test_a_client_cannot_set_the_account_header(proxy: int, name: str) -> None:
    forged = {name: "admin"}
    assert get(proxy, "/", **forged) == (401, None)
    assert get(proxy, "/", Cookie="sso=editor", **forged) == (200, "editor")


@pytest.mark.parametrize("path", ["/v1/jobs", "/health/live", "/metrics", "/shared/x", "/static/x"])
def test_paths_without_a_login_reach_the_web_process_with_no_account(proxy: int, path: str) -> None:
    assert get(proxy, path, Remote_User="admin") == (200, None)


def test_caddy_accepts_the_example_of_compose(tmp_path: Path) -> None:
    compose = yaml.safe_load(
        (ROOT / "deploy" / "compose.proxy.yaml").read_text("utf-8").replace("!reset ", "")
    )
    text = compose["configs"]["caddyfile"]["content"]
    file = tmp_path / "Caddyfile"
    file.write_text(re.sub(r"\$\{DOMAIN:[^}]*\}", "retort.example.org", text))
    done = subprocess.run(
        ["caddy", "adapt", "--config", str(file), "--adapter", "caddyfile"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
