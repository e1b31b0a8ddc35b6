#!/usr/bin/env python3
"""What `philotectl connections` costs those who talk meanwhile: a reader's latency with and without it, side by side.

10,000 connections are open and one channel of 1,000 readers is published to as fast as the daemon can (2 messages in
flight: with more the generator is the slower one), on one core; the generator and the lists have the other.
Usage: benches/listing [--runs N] [--connections N]
"""
import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELEASE = os.path.join(ROOT, "target/release")
SERVER_CORE, OTHER_CORE = "0", "1"
LIST = ["connections", "--sort", "queued", "--limit", "20", "--json"]
LOAD = ["bench", "fanout", "--in-flight", "2", "--connections", "1000", "--duration", "10s", "--json"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--connections", type=int, default=10_000)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as directory:
        path = lambda name: os.path.join(directory, name)
        with open(path("philote.toml"), "w") as file:
            file.write('max_connections = 19900\nlisten = ["127.0.0.1:0"]\n[log]\nlevel = "warn"\n')
        environment = {"PATH": os.environ["PATH"], "HOME": directory, "PHILOTE_CONFIG": path("philote.toml"),
                       "SECRET": "a secret of benches/listing, for loopback only",
                       "PHILOTE_ADMIN_SOCKET": path("admin.sock")}
        ctl = lambda *line: json.loads(subprocess.run(
            ["taskset", "-c", OTHER_CORE, os.path.join(RELEASE, "philotectl"), *line], env=environment, check=True,
            stdout=subprocess.PIPE).stdout)
        daemon = subprocess.Popen(["taskset", "-c", SERVER_CORE, os.path.join(RELEASE, "philote")], env=environment)
        try:
            ctl("wait-ready", "--json")
            idle = open_connections(ctl, options.connections)
            rows = {False: [], True: []}
            # In turn, so that the machine's mood is the same for both.
            for _ in range(options.runs):
                for listing in rows:
                    rows[listing].append(measure(ctl, options.connections, listing))
            show(rows, options.connections)
            del idle
        finally:
            daemon.terminate()
            daemon.wait()


def open_connections(ctl, count):
    """So many connections that do nothing."""
    host, port = ctl("status", "--json")["listeners"][0].rsplit(":", 1)
    token = ctl("token", "--read", "idle", "--expires-in", "1h", "--json")["token"]
    request = (f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
               f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n").encode()
    sockets = []
    for _ in range(count):
        connection = socket.create_connection((host.strip("[]"), int(port)))
        connection.sendall(request)
        assert connection.recv(4096).startswith(b"HTTP/1.1 101 ")
        sockets.append(connection)
    # Whoever is pinged must answer, or is gone before the end.
    threading.Thread(target=answer_pings, args=(sockets,), daemon=True).start()
    return sockets


def answer_pings(sockets):
    import selectors
    selector = selectors.DefaultSelector()
    for connection in sockets:
        selector.register(connection, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            data = key.fileobj.recv(4096)
            if not data:
                selector.unregister(key.fileobj)
            elif data[0] == 0x89:
                # A mask of zeros is a mask.
                key.fileobj.sendall(bytes([0x8a, 0x80 | data[1], 0, 0, 0, 0]) + data[2:2 + data[1]])


def measure(ctl, connections, listing):
    """One load; with `listing` a list each second beside it."""
    stop, answers = threading.Event(), []

    def ask():
        while not stop.is_set():
            began = time.monotonic()
            answer = ctl(*LIST)
            answers.append(time.monotonic() - began)
            assert answer["matched"] >= connections and len(answer["connections"]) == 20
            stop.wait(max(0, 1 - answers[-1]))

    asking = threading.Thread(target=ask)
    if listing:
        asking.start()
    row = ctl(*LOAD)["scenarios"][0]
    busy = row["server_time_per_delivery"] * row["deliveries_per_second"]
    stop.set()
    if listing:
        asking.join()
    return {"p50": row["latency"]["p50"], "p99": row["latency"]["p99"], "rate": row["deliveries_per_second"],
            "busy": busy, "lost": row["lost"], "answers": answers}


def show(rows, connections):
    """The figures, side by side."""
    print(f"{connections:,} idle connections, 1,000 readers of one channel, 2 messages in flight; medians of "
          f"{len(rows[False])} runs")
    print(f"{'':24}{'without':>12}{'a list a second':>18}")
    for title, key, scale, unit in [("latency p50", "p50", 1e3, "ms"), ("latency p99", "p99", 1e3, "ms"),
                                    ("deliveries a second", "rate", 1e-3, "k"), ("server's core in use", "busy", 100, "%"),
                                    ("lost", "lost", 1, "")]:
        values = [statistics.median(row[key] for row in rows[listing]) * scale for listing in (False, True)]
        print(f"{title:24}{values[0]:>10.1f} {unit:2}{values[1]:>15.1f} {unit}")
    answers = sorted(time for row in rows[True] for time in row["answers"])
    print(f"{len(answers)} lists, each a process of its own: median {statistics.median(answers) * 1e3:.0f} ms, "
          f"slowest {answers[-1] * 1e3:.0f} ms")


main()
