"""Faults under load: every server, process and device in every state, and a checker of the invariants.

make chaos                        # 10,000 jobs; about 45 minutes; resumes where it was stopped
make chaos ARGS="--quick"         # one fault of each class, under a quarter of an hour
make chaos ARGS="--faults 'Redis READONLY' 'web killed'"
"""

import argparse
import json
import shutil
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from tests.chaos import report, rounds
from tests.chaos.faults import catalogue as faults
from tests.chaos.faults.fault import Fault
from tests.chaos.rounds import Result, Rounds, Timing
from tests.chaos.servers import PGBOUNCER
from tests.chaos.stack import ROOT, Site

OUT = ROOT / ".retort" / "chaos"
JOBS = 10_000
JOBS_PER_SCENARIO = 1.05
PAIRS = 12
QUICK_SECONDS = 13 * 60.0  # no further round begins after that
MAX_RATE = 12.0  # scenarios per second
SHARE = 0.5  # of the idle stack's capacity
ENDED = "the round was finished"
UNUSABLE = {ENDED, "no thread is held"}  # violations after which the next round gets a new stack
UNUSABLE_HERE = " (not on this machine)"
QUICK = Timing(before=3, during=6, after=6, rate=0)
WHOLE = Timing(before=10, during=15, after=15, rate=0)


def say(text: str) -> None:
    print(text, flush=True)


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    known = faults.everything()
    if options.list:
        say("\n".join(fault.name + (not fault.is_usable()) * UNUSABLE_HERE for fault in known))
        return 0
    if PGBOUNCER is None:
        say("PgBouncer is not installed: all processes connect to PostgreSQL directly.")
    planned = plan(options, known)
    out = options.out / ("chosen" if options.faults else "quick" if options.quick else "whole")
    if options.fresh or options.faults:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / f"rounds-{options.seed}.jsonl"
    done = read(checkpoint)
    if done:
        say(f"Resuming after {len(done)} rounds. --fresh begins anew.")
    began = time.monotonic()
    while rest := {name: chosen for name, chosen in planned.items() if name not in done}:
        if options.quick and time.monotonic() - began > QUICK_SECONDS:
            say(f"Time is up; not tried: {', '.join(rest)}. The same command continues.")
            break
        run(out, rest, done, checkpoint, options, began)
    return conclude(list(done.values()), out)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one fault of each class")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"of a whole run; default: {JOBS}")
    parser.add_argument(
        "--pairs", type=int, default=PAIRS, help=f"of a whole run; default: {PAIRS}"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the load and the pairs; default: 1")
    parser.add_argument(
        "--faults", nargs="+", metavar="NAME", help="these alone, from the beginning"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of checkpoint, logs and plot")
    parser.add_argument("--fresh", action="store_true", help="forget the rounds of an earlier run")
    parser.add_argument("--list", action="store_true", help="list the faults")
    options = parser.parse_args(arguments)
    known = {fault.name: fault for fault in faults.everything()}
    chosen = set(options.faults or ())
    if unknown := sorted(chosen - known.keys()):
        parser.error(f"unknown faults: {', '.join(unknown)}. --list names all.")
    if unusable := sorted(name for name in chosen if not known[name].is_usable()):
        parser.error(f"not on this machine: {', '.join(unusable)}. docs/reliability.md says why.")
    return options


def plan(options: argparse.Namespace, known: list[Fault]) -> dict[str, tuple[Fault, ...]]:
    """Return the rounds of this run by name."""
    usable = {fault.name: fault for fault in known if fault.is_usable()}
    if options.faults:
        chosen = [(usable[name],) for name in options.faults]
    elif options.quick:
        chosen = [(usable[name],) for name in faults.QUICK]
        chosen += [tuple(usable[name] for name in pair) for pair in faults.QUICK_PAIRS]
    else:
        chosen = [(fault,) for fault in usable.values()]
        chosen += faults.pairs(list(usable.values()), options.pairs, options.seed)
    return {" + ".join(fault.name for fault in found): found for found in chosen}


def run(
    out: Path,
    planned: dict[str, tuple[Fault, ...]],
    done: dict[str, Result],
    checkpoint: Path,
    options: argparse.Namespace,
    began: float,
) -> None:
    """Run these rounds on a new stack, until one leaves it unusable or the time is up."""
    shutil.rmtree(out / "site", ignore_errors=True)
    (out / "clients").mkdir(exist_ok=True)
    say("Starting the stack …")
    with Site(out / "site") as site:
        world = rounds.world_of(site, options.seed)
        seconds = 20 if options.quick else 60
        rate = rounds.measured_rate(world, seconds=seconds, share=SHARE, most=MAX_RATE)
        timing = timing_of(options, rate, number=len(planned) + len(done))
        say(f"{timing.rate:.1f} clients a second, {len(planned)} rounds.")
        series = Rounds(site, world, out / "clients", seed=options.seed)
        for name, chosen in planned.items():
            if options.quick and time.monotonic() - began > QUICK_SECONDS:
                return
            try:
                result = series.run(name, chosen, timing)
            except Exception as error:  # one failed round must not end hours of rounds
                result = broken(name, error)
            done[name] = result
            with checkpoint.open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")
            say(report.table([result]).splitlines()[-1])
            if not result.is_good:
                say(report.violations([result]))
            if result.lost or any(v["invariant"] in UNUSABLE for v in result.violations):
                say("The stack may be unusable: the next round gets a new one.")
                return


def broken(name: str, error: Exception) -> Result:
    """Return the result of a round that the programme could not finish."""
    detail = f"{error!r}"[:1000]
    return Result(name, violations=[{"invariant": ENDED, "subject": name, "detail": detail}])


def timing_of(options: argparse.Namespace, rate: float, *, number: int) -> Timing:
    """Return the timing with which `number` rounds make the requested jobs. rate: at most."""
    if options.quick:
        return replace(QUICK, rate=rate)
    scenarios = options.jobs / number / JOBS_PER_SCENARIO
    shortest = WHOLE.before + WHOLE.during + WHOLE.after
    seconds = max(shortest, scenarios / rate)
    return replace(WHOLE, after=WHOLE.after + seconds - shortest, rate=scenarios / seconds)


def read(checkpoint: Path) -> dict[str, Result]:
    """Return the rounds of an earlier run by name."""
    if not checkpoint.exists():
        return {}
    lines = checkpoint.read_text().splitlines()
    results = [Result(**json.loads(line)) for line in lines if line.endswith("}")]
    return {result.name: result for result in results}


def conclude(results: list[Result], out: Path) -> int:
    """Print the table, draw the plot and return the exit code."""
    if not results:
        return 1
    say("\n" + report.table(results))
    say("\n" + report.totals(results))
    if found := report.violations(results):
        say("\nViolations\n" + found)
    report.plot(results, out / "chaos.png")
    (out / "table.md").write_text(report.table(results) + "\n\n" + report.totals(results) + "\n")
    say(
        f"\nPlot: {out / 'chaos.png'}. Clients' logs: {out / 'clients'}. Logs of the processes: {out / 'site'}"
    )
    return int(any(not result.is_good for result in results))


if __name__ == "__main__":
    # SIGTERM raises SystemExit, so that the stack is stopped.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
