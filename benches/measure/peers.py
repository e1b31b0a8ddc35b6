"""Measures Philote, uWebSockets, nats-server and mosquitto over WebSocket with the same clients, in turn.

Each run has a server of its own. nats-server and mosquitto come from Debian packages, which are installed where they are
missing; uWebSockets is a C++ library, whose sources come with a crate. A run takes some five minutes and needs a quiet machine.
"""
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from measure import harness

PROGRAMS = {"nats": "nats-server", "mosquitto": "mosquitto"}
SERVERS = ["philote", "uwebsockets", *PROGRAMS]
# The crate whose package contains the sources of uWebSockets and uSockets.
CRATE, CRATE_VERSION = "libuwebsockets-sys", "0.0.10"
UWEBSOCKETS = os.path.join("target", "uwebsockets")
LOADS = [["fanout", "--in-flight", "1"], ["fanout", "--in-flight", "16"], ["rooms"], ["paced"], ["idle", "--connections", "5000"]]
FIGURES = [("server us a delivery", "server_time_per_delivery", 1e6, 2), ("deliveries a second", "deliveries_per_second", 1, 0),
           ("p50, ms", "p50", 1e3, 2), ("p99, ms", "p99", 1e3, 2), ("lost", "lost", 1, 0),
           ("bytes a connection", "memory_per_connection", 1, 0),
           ("bytes a connection after 16 KiB messages", "memory_per_connection_after", 1, 0),
           ("server us a connect", "server_time_per_accept", 1e6, 1)]


def install(programs=(*PROGRAMS.values(), "g++")):
    """Installs those of these programs that are missing. Their Debian packages have the same names."""
    os.environ["PATH"] += ":/usr/sbin"
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        harness.say(f"installing Debian packages: {' '.join(missing)}")
        root = [] if os.geteuid() == 0 else ["sudo"]
        subprocess.run([*root, "apt-get", "update", "-qq"], check=True, stdout=sys.stderr)
        subprocess.run([*root, "apt-get", "install", "-qq", "--no-install-recommends", *missing], check=True, stdout=sys.stderr)


def sources():
    """The directory of uWebSockets' sources; cargo fetches them for a package that does nothing but name the crate."""
    os.makedirs(os.path.join(UWEBSOCKETS, "src"), exist_ok=True)
    open(os.path.join(UWEBSOCKETS, "src", "lib.rs"), "w").close()
    with open(os.path.join(UWEBSOCKETS, "Cargo.toml"), "w") as file:
        file.write(f'[package]\nname = "sources"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n'
                   f'[dependencies]\n{CRATE} = "={CRATE_VERSION}"\n')
    out = subprocess.run(["cargo", "metadata", "--quiet", "--format-version", "1"], cwd=UWEBSOCKETS, check=True,
                         stdout=subprocess.PIPE, text=True).stdout
    [found] = [found for found in json.loads(out)["packages"] if found["name"] == CRATE]
    return os.path.join(os.path.dirname(found["manifest_path"]), "uWebSockets")


def build_uwebsockets():
    """Compiles uwebsockets.cpp with the library, as its authors do, without TLS and compression."""
    harness.say("compiling uWebSockets")
    root, program = sources(), os.path.join(UWEBSOCKETS, "server")
    sockets = os.path.join(root, "uSockets", "src")
    flags = ["-O3", "-flto=auto", "-DLIBUS_NO_SSL", "-DUWS_NO_ZLIB", "-I", sockets]
    objects = []
    for name in ["bsd", "context", "loop", "socket", "udp", "eventing/epoll_kqueue"]:
        objects.append(f"{program}.{os.path.basename(name)}.o")
        subprocess.run(["gcc", "-std=c11", *flags, "-c", os.path.join(sockets, f"{name}.c"), "-o", objects[-1]], check=True)
    subprocess.run(["g++", "-std=c++20", *flags, "-I", os.path.join(root, "src"), "benches/peers/uwebsockets.cpp", *objects,
                    "-o", program], check=True)


def configuration(server, port, directory):
    """A configuration file that makes a peer as fast as it can be."""
    if server == "nats":
        return (f'listen: "127.0.0.1:-1"\nmax_connections: 65536\n'
                f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true, compression: false }}\n')
    # Debian 12's mosquitto refuses to start with a WebSocket listener alone.
    return (f"listener 0 {directory}/mqtt.sock\nlistener {port} 127.0.0.1\nprotocol websockets\nallow_anonymous true\n"
            "set_tcp_nodelay true\nmax_connections -1\npersistence false\nlog_type error\nuser root\n")


@contextlib.contextmanager
def running(server, philote):
    """A server for the length of a `with` block: its address and its process id."""
    if server == "philote":
        with harness.Daemon(philote) as daemon:
            yield daemon.address(), daemon.process.pid
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    with tempfile.TemporaryDirectory() as directory:
        if server == "uwebsockets":
            command = [os.path.join(UWEBSOCKETS, "server"), str(address[1])]
        else:
            path = os.path.join(directory, "configuration")
            with open(path, "w") as file:
                file.write(configuration(server, address[1], directory))
            command = [PROGRAMS[server], {"nats": "--config", "mosquitto": "-c"}[server], path]
        process = subprocess.Popen(["taskset", "-c", harness.SERVER_CORE, *command],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until_it_listens(server, process, address)
            yield address, process.pid
        finally:
            process.terminate()
            process.wait()


def wait_until_it_listens(server, process, address):
    began = time.monotonic()
    while time.monotonic() - began < 10 and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(address) == 0:
                return
        time.sleep(0.02)
    sys.exit(f"benches/run peers: {server} did not start")


def once(generator, server, philote, load):
    """Runs one load against one server, and returns its rows; none where the server cannot do it, which is a result."""
    with running(server, philote) as ((host, port), pid), tempfile.NamedTemporaryFile("w") as secret:
        secret.write(harness.SECRET)
        secret.flush()
        command = [generator, "--server", server, "--secret", harness.SECRET, "--secret-file", secret.name,
                   "--url", f"ws://{host}:{port}", "--pid", str(pid), *load]
        answer = subprocess.run(["taskset", "-c", harness.GENERATOR_CORE, *command], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)
    if answer.returncode:
        harness.say(f"{server}, {' '.join(load)}: {answer.stderr.strip()[-300:]}")
        return []
    return [{"server": server, **row} for row in json.loads(answer.stdout.strip().splitlines()[-1])["scenarios"]]


def table(rows):
    body = []
    for scenario in dict.fromkeys(row["scenario"] for row in rows):
        for name, key, scale, places in FIGURES:
            cells = [harness.median([row[key] for row in map(harness.flat, rows)
                                     if (row["server"], row["scenario"]) == (server, scenario) and key in row], scale, places)
                     for server in SERVERS]
            if any(cells) and not (scenario == "idle" and key in ("deliveries_per_second", "lost")):
                body.append([scenario, name, *cells])
    return harness.table(["scenario", "figure", *SERVERS], body, left=2)


def main(words):
    parser = harness.parser("peers", __doc__, runs=5)
    parser.add_argument("--keep", metavar="FILE", help="append each row to this file, and count the rows of earlier runs in it")
    parser.add_argument("--duration", default="3s", help="of each run [default: 3s]")
    options = parser.parse_args(words)
    install()
    build_uwebsockets()
    generator = harness.build("--bins", "--bench", "peers")["peers"]
    rows = []
    if options.keep and os.path.exists(options.keep):
        with open(options.keep) as file:
            rows = [json.loads(line) for line in file]
    for number in range(options.runs):
        for load in LOADS:
            # In turn, so that a change in the machine's speed affects all servers alike.
            for server in SERVERS:
                harness.say(f"run {number + 1} of {options.runs}: {server}, {' '.join(load)}")
                new = once(generator, server, options.philote, [*load, "--duration", options.duration])
                rows += new
                if options.keep:
                    with open(options.keep, "a") as file:
                        file.writelines(json.dumps(row) + "\n" for row in new)
    print(table(rows))
