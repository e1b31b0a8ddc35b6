"""Measures the latency of a load while `philotectl connections` lists all connections once a second, and without.

10,000 connections are idle, and one channel of 1,000 readers is published to with 2 messages in flight: with more the
generator would be slower than the server. The generator and the lists share a core.
"""
import json
import resource
import selectors
import socket
import statistics
import threading
import time

from measure import harness

LIST = ["connections", "--sort", "queued", "--limit", "20", "--json"]
LOAD = ["fanout", "--in-flight", "2", "--connections", "1000", "--duration"]


def main(words):
    parser = harness.parser("listing", __doc__, runs=3)
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="idle connections [default: 10000]")
    parser.add_argument("--duration", default="10s", help="of each run [default: 10s]")
    options = parser.parse_args(words)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    harness.build("--bins")
    with harness.Daemon(options.philote) as daemon:
        idle = open_connections(daemon, options.connections)
        rows = {False: [], True: []}
        # In turn, so that a change in the machine's speed affects both alike.
        for number in range(options.runs):
            for listing in rows:
                harness.say(f"run {number + 1} of {options.runs}{', with lists' if listing else ''}")
                rows[listing].append(measure(daemon, options, listing))
        show(rows, options.connections)
        del idle


def open_connections(daemon, count):
    """Opens connections that do nothing but answer pings: the server closes those that do not."""
    address, request = daemon.address(), harness.upgrade_request(daemon.token("idle"))
    sockets = []
    for _ in range(count):
        connection = socket.create_connection(address)
        connection.sendall(request)
        assert connection.recv(4096).startswith(b"HTTP/1.1 101 ")
        sockets.append(connection)
    threading.Thread(target=answer_pings, args=(sockets,), daemon=True).start()
    return sockets


def answer_pings(sockets):
    selector = selectors.DefaultSelector()
    for connection in sockets:
        selector.register(connection, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            data = key.fileobj.recv(4096)
            if not data:
                selector.unregister(key.fileobj)
            elif data[0] == 0x89:
                # A pong with the same payload; a masking key of zeros leaves it as it is.
                key.fileobj.sendall(bytes([0x8a, 0x80 | data[1], 0, 0, 0, 0]) + data[2:2 + data[1]])


def measure(daemon, options, listing):
    """Runs the load once; with `listing`, a list is requested each second meanwhile."""
    stop, answers = threading.Event(), []

    def ask():
        while not stop.is_set():
            began = time.monotonic()
            answer = json.loads(daemon.ctl(*LIST))
            answers.append(time.monotonic() - began)
            assert answer["matched"] >= options.connections and len(answer["connections"]) == min(20, answer["matched"])
            stop.wait(max(0, 1 - answers[-1]))

    asking = threading.Thread(target=ask)
    if listing:
        asking.start()
    try:
        row = harness.flat(harness.rows(daemon.bench(*LOAD, options.duration))[0])
    finally:
        stop.set()
        if listing:
            asking.join()
    return {**row, "busy": row["server_time_per_delivery"] * row["deliveries_per_second"], "answers": answers}


def show(rows, connections):
    print(f"{connections:,} idle connections, 1,000 readers of one channel, 2 messages in flight; medians of "
          f"{len(rows[False])} runs")
    print(f"{'':24}{'without':>12}{'a list a second':>18}")
    for title, key, scale, unit in [("latency p50", "p50", 1e3, "ms"), ("latency p99", "p99", 1e3, "ms"),
                                    ("deliveries a second", "deliveries_per_second", 1e-3, "k"),
                                    ("server's core in use", "busy", 100, "%"), ("lost", "lost", 1, "")]:
        values = [statistics.median(row[key] for row in rows[listing]) * scale for listing in (False, True)]
        print(f"{title:24}{values[0]:>10.1f} {unit:2}{values[1]:>15.1f} {unit}")
    answers = sorted(time for row in rows[True] for time in row["answers"])
    print(f"{len(answers)} lists, each by a process of its own: median {statistics.median(answers) * 1e3:.0f} ms, "
          f"slowest {answers[-1] * 1e3:.0f} ms")
