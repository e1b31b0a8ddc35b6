"""Loads philote for minutes with all that can happen to it at once, against a model of what each reader must get."""

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from backends import Administrator, Backend
from clients import Classic, Client, Roamer, Slow, Steady
from faults import Faults
from hostile import Hostile
from measure import Measure
from model import SETTLED
from report import report
from spoil import SPOILS, spoil
from world import World

# How long the daemon may take to forget its clients, in seconds, and the descriptors that it may keep.
FORGETS, KEPT = 60, 12


def options():
    parser = argparse.ArgumentParser(prog="tests/soak/run", description=__doc__)
    parser.add_argument("--minutes", type=float, required=True, help="how long to load it")
    parser.add_argument("--nodes", type=int, default=1, help="1, or several with NATS [default: 1]")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="the seed of all choices")
    parser.add_argument("--report", type=Path, help="write NAME.md and NAME.svg here", metavar="NAME")
    parser.add_argument("--spoil", choices=SPOILS, help="spoil one delivery on its way to the model: the run must fail")
    return parser.parse_args()


def clients(world):
    """All clients of a run."""
    rng = world.random("clients")
    read = lambda count: rng.sample(world.channels, count)
    # Every fourth stays connected for long.
    stays = lambda number: (600, 2400) if number % 4 == 3 else (15, 90)
    everyone = [Client(world, f"i{number}", read(2), tls=number % 2) for number in range(4)]
    everyone += [Steady(world, f"s{number}", read(4), tls=number % 2, stays=stays(number)) for number in range(24)]
    for number in range(32):
        # Some subjects have several connections.
        more = {"subject": f"u{number % 15}", "presence": number % 2 == 0, "tls": number % 4 == 0, "stays": stays(number)}
        everyone.append(Roamer(world, f"r{number}", may=["room:*"], **more))
    everyone += [Classic(world, f"k{number}", read(3), tls=number % 3 == 0) for number in range(6)]
    everyone += [Slow(world, f"z{number}", [world.flooded, *read(1)], slow=True) for number in range(5)]
    return everyone


def publishers(world):
    return [Backend(world, "b0"), Backend(world, "b1"), Backend(world, "burst", burst=True), Administrator(world, "p0")]


async def guarded(world, what):
    """Runs a part of the driver; its failure is a violation, and does not end the run."""
    try:
        await what()
    except Exception:
        world.model.fail(f"the driver failed: {traceback.format_exc(limit=-4)}")
        # An accident that repeats must not fill the report.
        await asyncio.sleep(5)


async def repeated(world, what):
    while not world.stopping:
        await guarded(world, what)


async def audit(world):
    """Judges what has happened, and starts a daemon again that has ended by itself."""
    world.audit()
    for node in world.nodes:
        if not node.running and not world.order("restart", "kill", node=node, ended=None):
            line = next(iter(node.log().splitlines()[-1:]), "")
            world.model.fail(f"{node.name} ended by itself with {node.process.returncode}: {line}")
            with world.ordering("kill", node=node):
                await node.start()


async def soak(options, directory, binaries, publish):
    """One run. Calls `publish` with the state of things every minute and at the end. Returns the world."""
    # The processes end with the run, however it ends.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    world = World(options.seed, options.nodes, directory, binaries)
    if options.spoil:
        spoil(world.model, options.spoil)
    tasks = []
    try:
        await world.start()
        idle = {node.name: node.sample()[1] for node in world.nodes}
        everyone = clients(world)
        measure, faults = Measure(world, 2 if options.minutes < 20 else 10), Faults(world, options.minutes)
        hostile = [Hostile(world, f"h{number}") for number in range(2)]
        parts = [*everyone, *publishers(world), *hostile, measure]
        tasks = [asyncio.create_task(repeated(world, one.run)) for one in parts]
        disturbing = [asyncio.create_task(guarded(world, what)) for what in (faults.orders, faults.breakdowns)]
        tasks += disturbing
        deadline, minute = world.now() + options.minutes * 60, world.now() + 60
        while world.now() < deadline or not all(task.done() for task in disturbing):
            await asyncio.sleep(1)
            await guarded(world, lambda: audit(world))
            if world.now() > minute:
                minute += 60
                publish(world, measure, [])
        await finish(world, tasks, everyone, idle)
        publish(world, measure, measure.flatness())
        return world
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for process in [*world.nodes, *([world.nats] if world.nats else [])]:
            if process.running:
                process.process.kill()
                await process.process.wait()


async def finish(world, tasks, everyone, idle):
    """Lets everything arrive, then ends the clients and the daemons, and judges what remains."""
    world.stopping = True
    for client in everyone:
        client.flowing.set()
        client.pause = 0
    await asyncio.sleep(SETTLED + 5)
    world.audit(last=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for node in world.nodes:
        await forgotten(world, node, idle[node.name])
        status = await node.end()
        if status != 0:
            world.model.fail(f"{node.name} ended with {status}")
        for line in node.log().splitlines():
            if "panicked" in line or "overflowed" in line:
                world.model.fail(f"{node.name} logged: {line}")
            if any(secret in line for _, secret in world.keys) or "eyJ" in line:
                world.model.fail(f"{node.name} logged a secret or a token")


async def forgotten(world, node, idle):
    """Waits until a node has no connections, and as few descriptors as before them."""
    for _ in range(FORGETS * 10):
        metrics, (_, descriptors, _) = await node.metrics(), node.sample()
        left = metrics["philote_connections"], metrics["philote_connections_pending"], metrics["philote_channels"]
        if left == (0, 0, 0) and descriptors <= idle + KEPT:
            return
        await asyncio.sleep(0.1)
    world.model.fail(
        f"{node.name} has {left[0]:.0f} connections, {left[1]:.0f} pending ones, {left[2]:.0f} channels and {descriptors}"
        f" descriptors {FORGETS} s after its clients left; it had {idle} descriptors at the start"
    )


def main():
    given = options()
    binaries = Path(os.environ["PHILOTE_BINARIES"])
    directory = Path(tempfile.mkdtemp(prefix="philote-soak-"))
    print(f"soak: seed {given.seed}, {given.nodes} nodes, {given.minutes:g} minutes", flush=True)
    kind = "Release" if binaries.name == "release" else "Debug"
    texts = []

    def publish(world, measure, flat):
        text, svg = report(world, measure, flat, given, f"{kind} build.")
        texts[:] = [text]
        if given.report:
            given.report.with_suffix(".md").write_text(text)
            given.report.with_suffix(".svg").write_text(svg)

    world = asyncio.run(soak(given, directory, binaries, publish))
    keep_output(world)
    print(*texts)
    if world.model.violations:
        print(f"soak: {world.model.counts['violations']} violations; the logs are in {directory}", file=sys.stderr)
        sys.exit(1)
    shutil.rmtree(directory)


def keep_output(world):
    """Adds the logs to the output that tests/run searches for secrets."""
    output = os.environ.get("PHILOTE_TEST_OUTPUT")
    if output:
        for node in world.nodes:
            (Path(output) / f"soak-{os.getpid()}-{node.name}").write_text(node.log())


main()
