"""Measures the latency of one load without and with another beside it.

  flood    a paced channel (1,000 readers, 50 messages a second) while 2, then 100 publishers flood another channel
  accept   a full fan-out while 5,000 connections are opened and closed
  drop     the delay of a new connection while half of 19,000 connections drop at one instant
  large    a room of ten while 18,000 readers of another channel receive messages
  presence a paced channel while clients join and leave a channel of 10,000 readers, whose presence is followed or not

Each measurement has a daemon of its own. The generators share a core: where this runs as root, the measured load runs in the
real-time scheduling class, so that the other generator does not delay it.
"""
import argparse
import base64
import contextlib
import hmac
import json
import os
import signal
import socket
import struct
import statistics
import sys
import threading
import time

from measure import harness
from measure.harness import Daemon

FIRST = ["chrt", "--rr", "10"] if os.geteuid() == 0 else []
# Seconds by which a new connection may be delayed while half of all connections drop.
DELAY_ALLOWED = 0.1
# Clients that join a followed channel, and as many that leave it.
JOINS_PER_SECOND = 500


def row(bench):
    return harness.rows(bench)[0]


def latency(row):
    latency = row["latency"]
    return (f"{row['deliveries_per_second']:,.0f} deliveries/s; p50 {latency['p50'] * 1e3:.2f}, p99 {latency['p99'] * 1e3:.2f}, "
            f"p99.9 {latency['p999'] * 1e3:.2f}, longest {latency['max'] * 1e3:.2f} ms; lost {row['lost']}")


def pair(philote, measured, other, connections, measured_first=False):
    """Runs a load alone, then beside another: the second of the two starts when the first has `connections` open.

    Returns the rows of the measured load, and the row of the other where that started last.
    """
    with Daemon(philote) as daemon:
        alone = row(daemon.bench(*measured, before=FIRST))
    with Daemon(philote) as daemon:
        if measured_first:
            bench = daemon.bench(*measured, before=FIRST)
            daemon.wait_for(connections)
            beside = daemon.bench(*other)
            return alone, row(bench), row(beside)
        daemon.bench(*other)
        daemon.wait_for(connections)
        # It has warmed up by then.
        time.sleep(1)
        return alone, row(daemon.bench(*measured, before=FIRST)), None


def flood(philote):
    rows = []
    # Each sends 64 messages at once, again and again, to all others of its channel.
    for publishers in (2, 100):
        load = ["rooms", "--rooms", "1", "--members", str(publishers), "--in-flight", "64", "--duration", "20s"]
        alone, beside, _ = pair(philote, ["paced", "--duration", "5s"], load, publishers)
        rows += [("paced, 1,000 readers x 50/s", latency(alone)),
                 (f"the same beside {publishers} publishers that flood a channel", latency(beside))]
    return rows


def accept(philote):
    alone, beside, coming = pair(philote, ["fanout", "--in-flight", "16", "--duration", "6s"],
                                 ["idle", "--connections", "5000"], 1_001, measured_first=True)
    return [("fan-out, 16 in flight", latency(alone)),
            ("the same while 5,000 connections are opened and closed", latency(beside)),
            ("those connections", f"{coming['connections']:,} of 5,000 opened; the server used "
                                  f"{coming['server_time_per_accept'] * 1e6:.0f} us for each, including the fan-out")]


def large(philote):
    alone, beside, _ = pair(philote, ["rooms", "--rooms", "1", "--duration", "5s"],
                            ["paced", "--connections", "18000", "--rate", "2", "--duration", "30s"], 18_001)
    return [("a room of ten", latency(alone)), ("the same beside 2 messages/s to 18,000 readers", latency(beside))]


def connect(address, request):
    """Opens a connection, and returns the seconds until the server's 101."""
    began = time.perf_counter()
    with socket.create_connection(address, timeout=10) as stream:
        stream.sendall(request)
        if not stream.recv(1024).startswith(b"HTTP/1.1 101"):
            sys.exit("benches/run fair: the server refused a connection")
        return time.perf_counter() - began


def drop(philote):
    with Daemon(philote) as daemon:
        holders = []
        for count in (1, 2):
            # One message a second to all, so that the server has readers to serve while the others drop.
            holders.append(daemon.bench("paced", "--connections", "9400", "--rate", "1", "--duration", "10m"))
            daemon.wait_for(count * 9_401)
        address, request = daemon.address(), harness.upgrade_request(daemon.token("other"))
        before = [connect(address, request) for _ in range(50)]
        delays, done = [], threading.Event()

        def newcomers():
            while not done.is_set():
                delays.append(connect(address, request))

        newcomer = threading.Thread(target=newcomers)
        newcomer.start()
        # SIGKILL: the kernel closes all its sockets at one instant.
        holders[0].send_signal(signal.SIGKILL)
        began = time.perf_counter()
        # The status still counts a few of the newcomers that have left.
        while daemon.status()["connections"] > 9_401 + 50:
            time.sleep(0.01)
        gone = time.perf_counter() - began
        done.set()
        newcomer.join()
    verdict = "within" if max(delays) < DELAY_ALLOWED else "OVER"
    return [("a new connection, 18,802 connected",
             f"median {statistics.median(before) * 1e3:.2f}, longest {max(before) * 1e3:.2f} ms"),
            ("the same while 9,401 drop at once",
             f"{len(delays)} in the {gone:.2f} s until all were gone: median {statistics.median(delays) * 1e3:.2f}, "
             f"longest {max(delays) * 1e3:.2f} ms: {verdict} {DELAY_ALLOWED * 1e3:.0f} ms")]


def opened(address, **claims):
    """A WebSocket connection that speaks philote.v1 and was welcomed, with a token of these claims."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "HS256"}, claims)]
    signature = hmac.digest(harness.SECRET.encode(), b".".join(parts), "sha256")
    token = b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()
    stream = socket.create_connection(address, timeout=10)
    stream.sendall(harness.upgrade_request(token).replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: philote.v1\r\n\r\n"))
    if not stream.recv(4096).startswith(b"HTTP/1.1 101"):
        sys.exit("benches/run fair: the server refused a connection")
    return stream


def frame(message):
    """A frame of less than 126 bytes, masked with zeros."""
    text = json.dumps(message).encode()
    return struct.pack("!BB4x", 0x81, 0x80 | len(text)) + text


class Visitors(threading.Thread):
    """Clients with a subject each that join a channel, leave it after a second, and come back when they count as gone."""

    def __init__(self, streams, channel):
        super().__init__()
        self.streams, self.channel = streams, channel
        self.done, self.joins = threading.Event(), 0

    def run(self):
        began = time.monotonic()
        while not self.done.is_set():
            self.streams[self.joins % len(self.streams)].sendall(frame({"join": [self.channel]}))
            if self.joins >= JOINS_PER_SECOND:
                leaving = self.streams[(self.joins - JOINS_PER_SECOND) % len(self.streams)]
                leaving.sendall(frame({"leave": [self.channel]}))
                leaving.recv(4096)
            self.joins += 1
            time.sleep(max(0, began + self.joins / JOINS_PER_SECOND - time.monotonic()))


def presence(philote):
    rows = []
    # No pings: these clients would not answer. The follower is told all names.
    settings = {"websocket.ping_interval": '"1h"', "presence.grace": '"2s"', "presence.subjects": "2000"}
    with Daemon(philote, settings) as daemon, contextlib.ExitStack() as sockets:
        def client(**claims):
            return sockets.enter_context(opened(address, **claims))

        address = daemon.address()
        for _ in range(10_000):
            client(read=["room"])
        streams = [client(may={"read": ["room"]}, sub=f"visitor {n}") for n in range(4 * JOINS_PER_SECOND)]
        measured = ["paced", "--duration", "10s"]
        rows.append(("paced, 1,000 readers x 50/s, 10,000 readers of another channel", latency(row(daemon.bench(*measured, before=FIRST)))))
        told = 0
        for followed in (False, True):
            if followed:
                follower = client(read=["room"], presence=True, sub="follower")
                follower.sendall(frame({"presence": ["room"], "follow": True}))
            visitors = Visitors(streams, "room")
            visitors.start()
            text = latency(row(daemon.bench(*measured, before=FIRST)))
            visitors.done.set()
            visitors.join()
            if followed:
                follower.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while read := follower.recv(1 << 20):
                        told += read.count(b'"presence":')
            rows.append((f"the same beside {visitors.joins:,} joins and leaves of the other, {'one follower' if followed else 'nobody follows'}",
                         text + (f"; {told} frames to the follower" if followed else "")))
    return rows


CASES = {"flood": flood, "accept": accept, "drop": drop, "large": large, "presence": presence}


def main(words):
    parser = harness.parser("fair", __doc__)
    parser.epilog, parser.formatter_class = __doc__.split("\n", 2)[2], argparse.RawDescriptionHelpFormatter
    parser.add_argument("case", nargs="*", help=f"{', '.join(CASES)} [default: all of them]")
    options = parser.parse_args(words)
    wanted = options.case or list(CASES)
    if unknown := set(wanted) - set(CASES):
        parser.error(f"no case is called {', '.join(sorted(unknown))}; the cases are {', '.join(CASES)}")
    harness.build("--bins")
    rows = []
    for name in wanted:
        harness.say(f"case {name}")
        rows += [(name, *row) for row in CASES[name](options.philote)]
    print(harness.table(["case", "what", "figures"], rows))
