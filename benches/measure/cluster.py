"""Measures what a cluster costs: each foreign message, latencies between nodes, and a log that is full.

All nodes, NATS and the load generator share the machine's cores, unless a part says otherwise, so CPU times are of single processes
and comparisons are of things that ran in turn. Takes some 13 minutes.
"""
import contextlib
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time

from measure import harness, peers

SETTINGS = {"max_connections": "5000", "listen": '["127.0.0.1:0"]', "log.level": '"warn"', "websocket.ping_interval": '"1h"'}
MODES = {"relay": {}, "log": {"history.messages": "100", "history.ttl": '"1h"', "history.bytes": '"1GiB"'}}
# Messages a second at which CPU is measured: far from what a core can do.
RATE = 5_000
# A message in the log takes some 350 bytes.
FULL = 250_000


@contextlib.contextmanager
def nats():
    """A nats-server with JetStream for the length of a `with` block: its URL and process."""
    # In memory where possible, so that the disk writes of other programs do not stall it.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with socket.socket() as probe, tempfile.TemporaryDirectory(dir=memory) as directory:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        path = os.path.join(directory, "configuration")
        with open(path, "w") as file:
            file.write(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{directory}/store" }}\n')
        process = subprocess.Popen(["nats-server", "--config", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            peers.wait_until_it_listens("nats", process, ("127.0.0.1", port))
            yield f"nats://127.0.0.1:{port}", process
        finally:
            process.kill()
            process.wait()


class Node(harness.Daemon):
    """A node of a cluster, or a server that is alone, on any core."""

    def __init__(self, philote, url, name, settings):
        cluster = {"cluster.servers": json.dumps([url]), "cluster.name": json.dumps(name)} if url else {}
        super().__init__(philote, {**SETTINGS, **cluster, **settings})

    def start(self, command, **options):
        return super().start(command[3:] if command[:1] == ["taskset"] else command, **options)

    def at(self):
        host, port = self.address()
        return f"{host}:{port}"

    def wait_until_ready(self):
        """Waits until it is connected; returns the seconds since its start."""
        host, port = self.address()
        while True:
            with socket.create_connection((host, port)) as stream:
                stream.sendall(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if b" 200 " in stream.recv(4096):
                    return
            time.sleep(0.005)


@contextlib.contextmanager
def nodes(philote, url, count, settings):
    """Nodes that are ready."""
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(Node(philote, url, f"n{number}", settings)) for number in range(count)]
        for node in started:
            node.wait_until_ready()
        for node in started:
            while len(json.loads(node.ctl("nodes", "--json"))["nodes"]) < count:
                time.sleep(0.05)
        yield started


@contextlib.contextmanager
def on_one_core():
    """Starts what a `with` block starts on the generator's core, so that the server's is free."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {int(harness.GENERATOR_CORE)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def move(process):
    """Moves all threads of a process to the server's core."""
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        os.sched_setaffinity(int(thread), {int(harness.SERVER_CORE)})


class Cluster:
    """The measurements. Each takes the options and prints one table."""

    def __init__(self, options, load):
        self.options, self.load = options, load

    def run(self, what, **arguments):
        words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
        command = [self.load, "--secret", harness.SECRET, what, *words]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

    def flow(self, publishing, reading, watched, rate=RATE, **more):
        read = {"read": ",".join(node.at() for node in reading)} if reading else {}
        pids = ",".join(str(process.pid) for process in watched)
        row = self.run("flow", publish=publishing.at(), pids=pids, rate=rate, seconds=self.options.seconds, **read, **more)
        row["us"] = [seconds / row["published"] * 1e6 for seconds in row["cpu"]]
        return row

    def repeat(self, measure):
        """The medians of several runs, which take turns over what `measure` yields: pairs of a name and a function."""
        rows = {}
        for turn in range(self.options.runs):
            for name, once in measure():
                harness.say(f"run {turn + 1}: {name}")
                rows.setdefault(name, []).append(once())
        return rows

    def one_node(self):
        """One node's publisher: cluster off, on without remote readers, on with them."""
        def turns():
            for mode, settings in MODES.items():
                def off(settings=settings):
                    with Node(self.options.philote, None, "alone", settings) as node:
                        return self.flow(node, [node], [node.process])

                def on(remote, settings=settings):
                    with nats() as (url, _), nodes(self.options.philote, url, 2, settings) as (one, other):
                        return self.flow(one, [one, other] if remote else [one], [one.process])
                yield (mode, "off"), off
                yield (mode, "on, no remote reader"), lambda: on(False)
                yield (mode, "on, a remote reader"), lambda: on(True)
        rows = self.repeat(turns)
        body = []
        for (mode, what), runs in rows.items():
            base = [run["us"][0] for run in rows[mode, "off"]]
            ratio = statistics.median(run["us"][0] / off for run, off in zip(runs, base))
            body.append([mode, what, harness.median([run["us"][0] for run in runs]), harness.figure(ratio),
                         harness.median([run["p50_ms"] for run in runs]), harness.median([run["p99_ms"] for run in runs])])
        return harness.table(["mode", "cluster", "us a message", "against off", "p50 ms", "p99 ms"], body, 2)

    def foreign(self):
        """What a message that another node published costs a node."""
        def turns():
            for mode, settings in MODES.items():
                def once(readers, rate, settings=settings):
                    with nats() as (url, server), nodes(self.options.philote, url, 2, settings) as (one, other):
                        return self.flow(one, [other] * readers, [other.process, one.process, server], rate)
                for readers, rate in ((0, RATE), (1, RATE), (10, RATE), (0, 20_000), (1, 20_000)):
                    yield (mode, readers, rate), lambda readers=readers, rate=rate: once(readers, rate)
        body = [[mode, harness.figure(rate, 1, 0), str(readers), *(harness.median([run["us"][at] for run in runs]) for at in range(3)),
                 harness.median([sum(run["delivered"]) / max(1, readers) / run["published"] for run in runs], 100, 1)]
                for (mode, readers, rate), runs in self.repeat(turns).items()]
        return harness.table(["mode", "messages/s", "its readers", "us there", "us on the publishing node", "us of nats-server", "% delivered"], body, 3)

    def latency(self):
        """From a publisher on one node to a reader on another."""
        def turns():
            for mode, settings in MODES.items():
                def once(rate, settings=settings):
                    with nats() as (url, _), nodes(self.options.philote, url, 2, settings) as (one, other):
                        return self.flow(one, [other], [one.process], rate)
                for rate in (1_000, 5_000, 20_000):
                    yield (mode, rate), lambda rate=rate: once(rate)
        body = [[mode, harness.figure(rate, 1, 0), *(harness.median([run[key] for run in runs]) for key in ("p50_ms", "p99_ms", "p999_ms")),
                 harness.median([run["delivered"][0] / run["published"] for run in runs], 100, 1)]
                for (mode, rate), runs in self.repeat(turns).items()]
        return harness.table(["mode", "messages/s", "p50 ms", "p99 ms", "p99.9 ms", "% delivered"], body, 2)

    def spread(self):
        """The CPU of the publishing node, alone on a core, and of NATS with readers on more and more nodes."""
        def turns():
            for mode, settings in MODES.items():
                def once(count, settings=settings):
                    # Else the others run on its core between its messages, and it finds less and less in the caches.
                    with on_one_core(), nats() as (url, server), nodes(self.options.philote, url, count, settings) as started:
                        move(started[0].process)
                        return self.flow(started[0], started, [started[0].process, server], 2_000)
                for count in (1, 2, 4, 8):
                    yield (mode, count), lambda count=count: once(count)
        rows = self.repeat(turns)
        body = []
        for (mode, count), runs in rows.items():
            ratio = statistics.median(run["us"][0] / two["us"][0] for run, two in zip(runs, rows[mode, 2]))
            body.append([mode, str(count), harness.median([run["us"][0] for run in runs]), harness.figure(ratio),
                         harness.median([run["us"][1] for run in runs])])
        head = ["mode", "nodes with a reader", "us on the publishing node", "against 2 nodes", "us of nats-server"]
        return harness.table(head, body, 2)

    def full(self):
        """A full log: publishing past its size, and a node that joins."""
        with nats() as (url, _), nodes(self.options.philote, url, 1, MODES["log"]) as (one,):
            filled = self.run("fill", publish=one.at(), messages=FULL * 2, parts=8)
            ready = []
            for number in range(self.options.runs):
                began = time.monotonic()
                with Node(self.options.philote, url, f"late{number}", MODES["log"]) as late:
                    late.wait_until_ready()
                    ready.append(time.monotonic() - began)
            began = time.monotonic()
            with Node(self.options.philote, None, "alone", MODES["log"]) as alone:
                alone.wait_until_ready()
            empty = time.monotonic() - began
        rates = ", ".join(harness.figure(rate, 1, 0) for rate in filled["rates"])
        return (f"{FULL * 2:,} messages by one connection, messages/s in eighths: {rates}; refused {filled['refused']}\n"
                f"seconds until a node with the full log is ready: {', '.join(harness.figure(value) for value in ready)}"
                f" (without a cluster {harness.figure(empty)})")

    def channels(self):
        """Many channels in the log, which are entered at once."""
        # More would not fit into the queues of clients that enter a thousand channels each.
        count, each = 20_000, 2
        with nats() as (url, _), nodes(self.options.philote, url, 2, MODES["log"]) as (one, other):
            filled = self.run("fill", publish=one.at(), messages=count * each, channels=count, parts=1)
            # Nothing tells when the other node has read the last messages, some milliseconds later.
            time.sleep(1)
            rows = [self.run("enter", read=node.at(), channels=count, messages=count * each) for node in (one, other)]
            rss = [int(open(f"/proc/{node.process.pid}/statm").read().split()[1]) * 4 // 1024 for node in (one, other)]
        lines = [f"{count:,} channels with {each} messages each: stored at {harness.figure(filled['rates'][0], 1, 0)} messages/s"]
        for name, row, memory in zip(("on the publishing node", "on the other node"), rows, rss):
            lines.append(f"entered {name} by {count // 1000} connections at once: {harness.figure(row['entered_seconds'])} s,"
                         f" {row['delivered']:,} messages after {harness.figure(row['seconds'])} s; {memory} MiB resident")
        return "\n".join(lines)


PARTS = ["one_node", "foreign", "latency", "spread", "full", "channels"]


def main(words):
    parser = harness.parser("cluster", __doc__, runs=3)
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)} [default: all of them]")
    parser.add_argument("--seconds", type=int, default=4, metavar="N", help="length of each measurement [default: 4]")
    options = parser.parse_args(words)
    if unknown := set(options.part) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    peers.install(["nats-server"])
    measurements = Cluster(options, harness.build("--bin", "philote", "--bin", "philotectl", "--bench", "cluster")["cluster"])
    for part in options.part or PARTS:
        measure = getattr(measurements, part)
        print(f"\n{measure.__doc__}\n\n{measure()}", flush=True)
