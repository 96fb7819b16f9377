"""Makes .venv and installs into it, only when the requirements changed. Runs on a bare Python."""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
VENV = PROJECT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed.json"  # written last: without it the installation is repeated
REQUIREMENTS = {
    "project": "requirements.txt",
    "starter": "distillation/starter/requirements.txt",
    "tests": "tests/requirements.txt",
}
TORCH_INDEXES = {"cpu": "https://download.pytorch.org/whl/cpu"}


class SetupFailed(Exception):
    """Shown without a traceback."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m deploy.local.setup", description=__doc__)
    parser.add_argument(
        "--tests", action="store_true", help="what the tests and checks need as well"
    )
    parser.add_argument(
        "--starter", action="store_true", help="what making the starter needs as well"
    )
    options = parser.parse_args()
    groups = ["project"]
    if options.starter or options.tests:  # the tests try the starter too
        groups.append("starter")
    if options.tests:
        groups.append("tests")
    torch = os.environ.get("TORCH") or ""
    try:
        if torch and torch not in TORCH_INDEXES:
            raise SetupFailed(
                f"TORCH={torch!r}: give {' or '.join(TORCH_INDEXES)}, or leave it out."
            )
        lock_folder = PROJECT / ".retort"
        lock_folder.mkdir(exist_ok=True)
        with open(lock_folder / "setup.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Another `make` is installing; waiting for it …")
                fcntl.flock(lock, fcntl.LOCK_EX)
            install(groups, torch)
    except SetupFailed as error:
        say(f"\n{error}")
        return 1
    except OSError as error:
        say(f"\nCannot write to {PROJECT}: {error.strerror}.")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted. The next start goes on from here.")
        return 130
    return 0


def install(groups: list[str], torch: str = "") -> None:
    """Bring .venv up to date for these groups of requirements; nothing is asked of any network if it is already."""
    installed = _read_stamp()
    missing = [group for group in groups if installed.get(group) != fingerprint(group)]
    switch_torch = bool(torch) and installed.get("torch") != torch
    if not missing and not switch_torch:
        return
    _make_venv()
    STAMP.unlink(missing_ok=True)
    began = time.monotonic()
    if switch_torch:
        say(f"Installing torch for {torch} …")
        force = ["--force-reinstall"] if "torch" in installed else []
        pip("install", "--index-url", TORCH_INDEXES[torch], *force, "torch>=2.9")
        installed["torch"] = torch
    # One call for all, so that pip resolves them together.
    every = [group for group in REQUIREMENTS if group in groups or group in installed]
    names = [REQUIREMENTS[group] for group in every]
    say(
        f"Installing {' and '.join(names)} into {VENV.name}/ (the first time takes a few minutes) …"
    )
    pip("install", *(word for name in names for word in ("-r", str(PROJECT / name))))
    for group in every:
        installed[group] = fingerprint(group)
    installed.setdefault("torch", "")
    partial = STAMP.with_suffix(".partial")
    partial.write_text(json.dumps(installed))
    partial.replace(STAMP)
    say(f"Installed in {time.monotonic() - began:.0f} s.")


def fingerprint(group: str) -> str:
    content = (PROJECT / REQUIREMENTS[group]).read_bytes()
    # An environment of another Python, or of a project that was moved, does not work.
    return hashlib.sha256(content + f"{sys.version_info[:2]} {PROJECT}".encode()).hexdigest()


def _read_stamp() -> dict[str, str]:
    try:
        content = json.loads(STAMP.read_text())
        return dict(content) if PYTHON.exists() else {}
    except (OSError, ValueError):
        return {}


def _make_venv() -> None:
    if _works():
        return
    say(f"Making {VENV.name}/ with Python {sys.version.split()[0]} …")
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run(
        [sys.executable, "-m", "venv", VENV], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        hint = ""
        if "ensurepip" in made.stdout + made.stderr:
            hint = "\nOn Debian and Ubuntu: apt install python3-venv"
        raise SetupFailed(f"python3 -m venv failed:\n{made.stdout}{made.stderr}{hint}")


def _works() -> bool:
    """The interpreter starts here, is of our version, and has pip."""
    check = "import sys, pip; print(sys.version_info[:2], sys.prefix)"
    try:
        answer = subprocess.run(
            [PYTHON, "-I", "-c", check], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    return answer.stdout.strip() == f"{sys.version_info[:2]} {VENV}"


def pip(*arguments: str) -> None:
    """Runs pip, showing what it is at; its whole output only when it fails. Raises SetupFailed."""
    command = [
        str(PYTHON),
        "-m",
        "pip",
        *arguments,
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar",
        "off",
    ]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME")
    }
    output: list[str] = []
    with (
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
        _Hint() as hint,
    ):
        assert process.stdout
        for line in process.stdout:
            output.append(line)
            if step := describe(line):
                hint.show(step)
    if process.returncode != 0:
        raise SetupFailed(f"pip failed. It says:\n\n{''.join(output[-40:])}")


def describe(line: str) -> str:
    """A line of pip's as a hint; empty for lines that say nothing new."""
    if match := re.match(r"\s*Downloading (\S+) \(([\d.]+ [kMG]?B)", line):
        return f"downloading {match[1].rsplit('/', 1)[-1]} ({match[2]})"
    if match := re.match(r"Collecting ([\w.\-\[\]]+)", line):
        return f"looking for {match[1]}"
    if line.startswith("Installing collected packages"):
        return f"unpacking {line.count(',') + 1} packages"
    return ""


class _Hint:
    """What pip is at, with the time: one changing line in a terminal, a line every 15 seconds elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._step = "starting pip"
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "_Hint":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def show(self, step: str) -> None:
        self._step = step

    def _tick(self) -> None:
        while not self._ended.wait(0.5 if self._terminal else 15):
            text = f"  {time.monotonic() - self._began:3.0f} s  {self._step}"
            if self._terminal:
                width = shutil.get_terminal_size().columns - 1
                print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)
            else:
                say(text)


if __name__ == "__main__":
    sys.exit(main())
