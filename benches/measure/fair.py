#!/usr/bin/env python3
"""Measures whether one load spoils another's latency; prints one table. Usage: benches/fair [CASE...]

  flood    a paced channel (1,000 readers x 50/s) while another channel is flooded, by two and by a hundred publishers
  accept   a full fan-out while 5,000 connections come
  drop     a new connection's delay while half of 19,000 connections drop at one instant
  large    the latency in a room of ten while 18,000 readers of another channel get messages

Each case is measured without and with the disturbance, by `philotectl bench` against a daemon of its own. The server has a core,
the generators share the other: the one that is measured goes first, as root by the scheduler's class.
"""
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BINARIES = os.environ.get("PHILOTE_BINARIES", os.path.join(ROOT, "target/release"))
CTL = os.path.join(BINARIES, "philotectl")
SERVER_CORE, GENERATOR_CORE = "0", "1"
SECRET = "a secret of benches/fair, for loopback only"
FIRST = ["chrt", "--rr", "10"] if os.geteuid() == 0 else []
# Seconds that opening connections may take.
PATIENCE = 120
# What half of all connections dropping may delay a new one by (faults: 58).
DELAY_ALLOWED = 0.1


class Daemon:
    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory()
        path = lambda name: os.path.join(self.directory.name, name)
        with open(path("philote.toml"), "w") as file:
            file.write('max_connections = 19900\nlisten = ["127.0.0.1:0"]\n[log]\nlevel = "warn"\n')
        self.environment = {"PATH": os.environ["PATH"], "HOME": self.directory.name, "SECRET": SECRET,
                            "PHILOTE_CONFIG": path("philote.toml"), "PHILOTE_ADMIN_SOCKET": path("admin.sock")}
        self.process = subprocess.Popen(["taskset", "-c", SERVER_CORE, os.path.join(BINARIES, "philote")],
                                        env=self.environment)
        self.ctl("wait-ready")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.directory.cleanup()

    def ctl(self, *arguments):
        return subprocess.run([CTL, *arguments], env=self.environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    def status(self):
        return json.loads(self.ctl("status", "--json"))

    def bench(self, *arguments, first=False):
        """A generator, running."""
        command = [*(FIRST if first else []), "taskset", "-c", GENERATOR_CORE, CTL, "bench", "--json", *arguments]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def wait_for(self, connections):
        began = time.monotonic()
        while self.status()["connections"] < connections:
            if time.monotonic() - began > PATIENCE:
                sys.exit(f"benches/fair: {self.status()['connections']} of {connections} connections after {PATIENCE} s")
            time.sleep(0.05)


def row(process):
    out, _ = process.communicate()
    return json.loads(out)["scenarios"][0]


def says(row):
    latency = row["latency"]
    return (f"{row['deliveries_per_second']:,.0f} deliveries/s; p50 {latency['p50'] * 1e3:.2f}, p99 {latency['p99'] * 1e3:.2f}, "
            f"p99.9 {latency['p999'] * 1e3:.2f}, longest {latency['max'] * 1e3:.2f} ms; lost {row['lost']}")


def pair(measured, disturbance, present, after=0):
    """A load by itself, and beside another that has `present` connections when it begins."""
    with Daemon() as daemon:
        alone = row(daemon.bench(*measured, first=True))
    with Daemon() as daemon:
        if after:
            load = daemon.bench(*measured, first=True)
            daemon.wait_for(after)
            other = daemon.bench(*disturbance)
        else:
            other = daemon.bench(*disturbance)
            daemon.wait_for(present)
            time.sleep(1)
            load = daemon.bench(*measured, first=True)
        beside = row(load)
        disturbing = row(other) if after else None
        other.kill()
        other.wait()
    return alone, beside, disturbing


def flood():
    rows = []
    # Each sends 64 messages at once, again and again, to all others of its channel.
    for publishers in (2, 100):
        load = ["rooms", "--rooms", "1", "--members", str(publishers), "--in-flight", "64", "--duration", "20s"]
        alone, beside, _ = pair(["paced", "--duration", "5s"], load, publishers)
        rows += [("paced, 1,000 readers x 50/s", says(alone)), (f"the same beside {publishers} that flood a channel", says(beside))]
    return rows


def accept():
    alone, beside, coming = pair(["fanout", "--in-flight", "16", "--duration", "6s"], ["idle", "--connections", "5000"],
                                 0, after=1_001)
    return [("fan-out, 16 in flight", says(alone)),
            ("the same while 5,000 connections come and go", says(beside)),
            ("the connections", f"{coming['connections']:,} of 5,000 came, {coming['server_time_per_accept'] * 1e6:.0f} us "
                                "of the server each, with the fan-out's own")]


def large():
    alone, beside, _ = pair(["rooms", "--rooms", "1", "--duration", "5s"],
                            ["paced", "--connections", "18000", "--rate", "2", "--duration", "30s"], 18_001)
    return [("a room of ten", says(alone)), ("the same beside 2 messages/s to 18,000 readers", says(beside))]


def connect(address, token):
    """Seconds from the first packet to the 101."""
    began = time.perf_counter()
    with socket.create_connection(address, timeout=10) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: cGhpbG90ZWN0bCBiZW5jaA==\r\n"
                       b"Authorization: Bearer " + token + b"\r\n\r\n")
        if not stream.recv(1024).startswith(b"HTTP/1.1 101"):
            sys.exit("benches/fair: a connection was refused")
        return time.perf_counter() - began


def drop():
    with Daemon() as daemon:
        holders = []
        for count in (1, 2):
            # A message every second to all, so that the half that stays is served meanwhile.
            holders.append(daemon.bench("paced", "--connections", "9400", "--rate", "1", "--duration", "10m"))
            daemon.wait_for(count * 9_401)
        token = daemon.ctl("token", "--read", "other").split()[0].encode()
        listener = next(name for name in daemon.status()["listeners"] if "127.0.0.1" in str(name))
        port = int(str(listener if isinstance(listener, str) else listener["address"]).rsplit(":", 1)[1])
        address = ("127.0.0.1", port)
        before = [connect(address, token) for _ in range(50)]
        delays, done = [], threading.Event()

        def newcomers():
            while not done.is_set():
                delays.append(connect(address, token))

        newcomer = threading.Thread(target=newcomers)
        newcomer.start()
        # SIGKILL: the kernel closes all its sockets at one instant.
        holders[0].send_signal(signal.SIGKILL)
        began = time.perf_counter()
        # Newcomers that have left and are not forgotten yet are counted, too.
        while daemon.status()["connections"] > 9_401 + 50:
            time.sleep(0.01)
        gone = time.perf_counter() - began
        done.set()
        newcomer.join()
        holders[1].kill()
        for holder in holders:
            holder.wait()
    verdict = "within" if max(delays) < DELAY_ALLOWED else "OVER"
    return [("a new connection, 18,802 connected", f"median {statistics.median(before) * 1e3:.2f}, longest {max(before) * 1e3:.2f} ms"),
            ("the same while 9,401 drop at once", f"{len(delays)} in the {gone:.2f} s until all were gone: median "
             f"{statistics.median(delays) * 1e3:.2f}, longest {max(delays) * 1e3:.2f} ms: {verdict} {DELAY_ALLOWED * 1e3:.0f} ms")]


CASES = {"flood": flood, "accept": accept, "drop": drop, "large": large}


def main():
    wanted = sys.argv[1:] or list(CASES)
    if not set(wanted) <= set(CASES):
        sys.exit(__doc__)
    print("| case | what | figures |\n| --- | --- | --- |")
    for name in wanted:
        for what, figures in CASES[name]():
            print(f"| {name} | {what} | {figures} |", flush=True)


# What was started ends with this, also when this is told to end.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
main()
