"""Command line used by the Makefile: run, demo, servers, and control of the processes of a running stack."""

import argparse
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from deploy.local import logs, management, picture, ports, throwaway
from deploy.local.api import API
from deploy.local.errors import AlreadyRunning, APIError, LocalError
from deploy.local.home import Home
from deploy.local.servers import say
from deploy.local.stack import Stack, is_serving
from deploy.local.supervision import Supervisor

READY_SECONDS = 120  # wait for another launcher that uses the folder


class Stop(BaseException):
    """A signal to stop was received."""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.action(options))
    except (LocalError, OSError) as error:  # OSError: a full disk, another account's file
        say(f"\n{error}")
        return 1
    except (Stop, KeyboardInterrupt):
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, action: Callable[[argparse.Namespace], int], help: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        command.set_defaults(action=action)
        return command

    for name, action, help in (
        ("run", run, "start everything, make a picture, serve until Ctrl-C"),
        ("demo", demo, "make one picture; its path is the last line of stdout"),
    ):
        option = add(name, action, help).add_argument
        workers = _variable("WORKERS", "1")
        option("--workers", type=_positive, default=workers, help="generation workers")
        option("--port", type=_port, default=_variable("PORT"), help="of the web process")
        option("--prompt", default=_variable("PROMPT"), help="text or slug of a prompt variant")
        option("--seed", type=int, default=_variable("SEED"))
        option("--out", type=Path, default=_variable("OUT"), help="file or folder of the picture")
    commands.choices["run"].add_argument("--no-picture", action="store_true", help="serve only")
    servers_help = "run a command with its own PostgreSQL and Redis (or DATABASE_URL, REDIS_URL)"
    option = add("servers", servers, servers_help).add_argument
    option("command", nargs=argparse.REMAINDER, help="-- COMMAND …")
    manage_help = "run manage.py on the database and the data of this folder"
    option = add("manage", manage, manage_help).add_argument
    option("command", nargs=argparse.REMAINDER, help="COMMAND …")
    option = add(
        "logs", show_logs, "show the logs of all processes in chronological order"
    ).add_argument
    option("names", nargs="*", metavar="PROCESS", help="such as web, light, generation-1")
    option("--job", default=_variable("JOB"), metavar="ID", help="only lines of this job")
    option("--follow", action="store_true", help="wait for new lines, until Ctrl-C")
    option("--json", action="store_true", help="print the lines unchanged")
    for name in ("start", "stop", "restart", "status"):
        about = "of processes" if name == "status" else "processes"
        option = add(name, control, f"{name} {about} of the serving stack").add_argument
        option("names", nargs="*" if name == "status" else "+", metavar="NAME")
        commands.choices[name].set_defaults(verb=name)
    return parser


def _variable(name: str, default: str | None = None) -> str | None:
    """Return a variable that make exported; argparse converts and checks it like an option."""
    return os.environ.get(name) or default


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= ports.LAST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {ports.LAST}")
    return int(text)


# --- commands -------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    home = Home()
    stack = Stack(home, workers=options.workers, port=options.port)
    _stop_on_signals(stack)
    stack.start()
    try:
        if not options.no_picture:
            made = _picture(API(stack.base_url, stack.api_key), options, home, stack.watch)
            print(f"\n  picture   {made.path}\n            {made.link}")
            print(f"            “{made.text}”, seed {made.seed}, {made.seconds:.1f} s")
        _explain(stack)
        while True:
            time.sleep(0.5)
            stack.watch()
    except Stop:
        return 0
    finally:
        _stop(stack)


def demo(options: argparse.Namespace) -> int:
    home = Home()
    stack = Stack(home, workers=options.workers, port=options.port)
    _stop_on_signals(stack)
    try:
        stack.start()
    except AlreadyRunning:
        facts = _wait_for_facts(home)
        say(f"Using the stack that is serving at {facts['base_url']}.")
        print(_picture(API(facts["base_url"], facts["api_key"]), options, home).path)
        return 0
    try:
        if stack.new_admin_password:
            say(
                f"Admin account made: admin, password {stack.new_admin_password} (shown this once; keep it)."
            )
        made = _picture(API(stack.base_url, stack.api_key), options, home, stack.watch)
        say(f"“{made.text}”, seed {made.seed}, {made.seconds:.1f} s. `make run` serves it.")
    finally:
        _stop(stack)
    print(made.path)
    return 0


def servers(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise LocalError("The command is missing: python -m deploy.local servers -- COMMAND …")
    return throwaway.run(command)


def manage(options: argparse.Namespace) -> int:
    words = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not words:
        raise LocalError("The command is missing: python -m deploy.local manage COMMAND …")
    home = Home()
    return management.run(home, words, facts=home.read_run() if is_serving(home) else {})


def show_logs(options: argparse.Namespace) -> int:
    home = Home()
    known = logs.processes(home)
    if unknown := sorted(set(options.names) - set(known)):
        raise LocalError(
            f"There is no log of {unknown[0]}. Existing logs: {', '.join(known) or 'none'}."
        )
    lines: Iterable[logs.Line] = logs.read(home, options.names)
    if options.follow:
        lines = itertools.chain(lines, logs.follow(home, options.names))
    try:
        for line in lines:
            if not options.job or line.has(options.job):
                print(line.text if options.json else line.for_people(), flush=options.follow)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
    return 0


def control(options: argparse.Namespace) -> int:
    home = Home()
    supervisor = Supervisor(home)
    if not supervisor.answers():
        raise LocalError(f"Nothing is serving from {home.folder}. Start it with: make run")
    command = [
        sys.executable,
        "-m",
        "supervisor.supervisorctl",
        "-s",
        f"unix://{supervisor.socket}",
    ]
    os.execv(sys.executable, [*command, options.verb, *options.names])


# --- steps ----------------------------------------------------------------------------------------------------


def _picture(
    api: API, options: argparse.Namespace, home: Home, on_poll: Callable[[], None] = lambda: None
) -> picture.Picture:
    try:
        return picture.make(
            api,
            text=options.prompt,
            seed=options.seed,
            out=options.out or home.pictures,
            on_poll=on_poll,
        )
    except APIError as error:
        if nearest := error.problem.get("nearest"):
            known = "\n".join(f"  {variant['text']}" for variant in nearest)
            raise LocalError(f"{error}\nThe catalogue has, for example:\n{known}") from None
        raise


def _explain(stack: Stack) -> None:
    print(f"\n  page      {stack.base_url}/")
    print(f"  admin     {stack.base_url}/admin/")
    if stack.new_admin_password:
        print(
            f"            both: user admin, password {stack.new_admin_password}  (shown this once; keep it)"
        )
    else:
        print("            user admin; a forgotten password: make password")
    print(f"  API       {stack.base_url}/v1/docs")
    print(f"  API key   in {stack.home.run_file}")
    print(f"  logs      {stack.home.logs} (make logs JOB=…)")
    print("\nServing. Ctrl-C stops everything and keeps the data.", flush=True)


def _wait_for_facts(home: Home) -> dict:
    deadline = time.monotonic() + READY_SECONDS
    while not is_serving(home):
        if time.monotonic() > deadline:
            raise LocalError(f"Another launcher uses {home.folder} but does not become ready.")
        time.sleep(0.2)
    return home.read_run()


def _stop(stack: Stack) -> None:
    began = time.monotonic()
    try:
        say("\nStopping …")
    finally:
        stack.stop()
    say(f"Stopped in {time.monotonic() - began:.1f} s. The data stays in {stack.home.folder}.")


def _stop_on_signals(stack: Stack) -> None:
    """Stop in order at the first signal; kill at a second Ctrl-C."""

    def kill(*_: object) -> None:
        stack.kill()
        os._exit(130)

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, kill)
        raise Stop

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, stop)


if __name__ == "__main__":
    sys.exit(main())
