#!/usr/bin/env python3
"""Measures Philote, nats-server and mosquitto over WebSocket in turn, with the same clients, and prints one table.

Server and generator have a core each; each measurement has a server of its own. The peers come from Debian packages, which are
installed where they are missing. Usage: benches/peers/run [--runs N] [--keep FILE]; what FILE holds from earlier runs
is counted too. Not part of the tests: it takes a quiet machine and some four minutes a run.
"""
import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVER_CORE, GENERATOR_CORE = "0", "1"
SECRET = "a secret of benches/peers, for loopback only"
SERVERS = ["philote", "nats", "mosquitto"]
PROGRAMS = {"nats": "nats-server", "mosquitto": "mosquitto"}
SCENARIOS = [["fanout", "--in-flight", "1"], ["fanout", "--in-flight", "16"], ["rooms"], ["paced"],
             ["idle", "--connections", "5000"]]
DURATION = "3s"


def configuration(server, port, directory):
    """A configuration file with all that a peer needs to be as fast as it can."""
    if server == "philote":
        return f'max_connections = 19900\nlisten = ["127.0.0.1:{port}"]\n[log]\nlevel = "warn"\n'
    if server == "nats":
        return (f'listen: "127.0.0.1:-1"\nmax_connections: 65536\n'
                f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true, compression: false }}\n')
    # The first listener is there because Debian 12's mosquitto refuses to start with WebSocket alone.
    return (f"listener 0 {directory}/mqtt.sock\nlistener {port} 127.0.0.1\nprotocol websockets\nallow_anonymous true\nset_tcp_nodelay true\n"
            "max_connections -1\npersistence false\nlog_type error\nuser root\n")


def start(server, port, directory):
    path = os.path.join(directory, "configuration")
    with open(path, "w") as file:
        file.write(configuration(server, port, directory))
    commands = {
        "philote": [os.path.join(ROOT, "target/release/philote"), "--config", path],
        "nats": ["nats-server", "--config", path],
        "mosquitto": ["mosquitto", "-c", path],
    }
    environment = {"PATH": os.environ["PATH"], "HOME": directory, "SECRET": SECRET,
                   "PHILOTE_ADMIN_SOCKET": os.path.join(directory, "admin.sock")}
    process = subprocess.Popen(["taskset", "-c", SERVER_CORE, *commands[server]], env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(500):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.02)
    process.kill()
    sys.exit(f"benches/peers/run: {server} did not start")


def once(generator, server, scenario):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        process = start(server, port, directory)
        secret = os.path.join(directory, "secret")
        with open(secret, "w") as file:
            file.write(SECRET)
        try:
            command = [generator, "--server", server, "--secret", SECRET, "--secret-file", secret, "--duration", DURATION,
                       "--url", f"ws://127.0.0.1:{port}", "--pid", str(process.pid), *scenario]
            answer = subprocess.run(["taskset", "-c", GENERATOR_CORE, *command], stdout=subprocess.PIPE, check=False,
                                    stderr=subprocess.PIPE, text=True)
            if answer.returncode:
                # A peer that can't do it is a result.
                print(f"{server}, {' '.join(scenario)}: {answer.stderr.strip()[-300:]}", file=sys.stderr)
                return None
            row = json.loads(answer.stdout.strip().splitlines()[-1])["scenarios"][0]
            return {"server": server, **row}
        finally:
            process.terminate()
            process.wait()


def table(rows):
    lines = ["| scenario | figure | " + " | ".join(SERVERS) + " |", "| --- | --- |" + " ---: |" * len(SERVERS)]
    scenarios = dict.fromkeys(row["scenario"] for row in rows)
    figures = [("server us a delivery", "server_time_per_delivery", 1e6, 2), ("deliveries a second", "deliveries_per_second", 1, 0),
               ("p50, ms", "p50", 1e3, 2), ("p99, ms", "p99", 1e3, 2), ("lost", "lost", 1, 0),
               ("bytes a connection", "memory_per_connection", 1, 0),
               ("bytes a connection after 16 KiB messages", "memory_per_connection_after", 1, 0),
               ("server us a connect", "server_time_per_accept", 1e6, 1)]
    for scenario in scenarios:
        for name, key, scale, places in figures:
            cells = []
            for server in SERVERS:
                values = [row[key] if key in row else (row["latency"] or {}).get(key) for row in rows
                          if (row["server"], row["scenario"]) == (server, scenario)]
                values = [value for value in values if value is not None]
                cells.append(f"{statistics.median(values) * scale:,.{places}f}" if values else "")
            if any(cells) and not (scenario == "idle" and key in ("deliveries_per_second", "lost")):
                lines.append(f"| {scenario} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--keep", metavar="FILE")
    options = parser.parse_args()
    missing = [program for program in PROGRAMS.values() if not shutil.which(program) and
               not os.path.exists(f"/usr/sbin/{program}")]
    if missing:
        root = [] if os.geteuid() == 0 else ["sudo"]
        subprocess.run([*root, "apt-get", "update", "-qq"], check=True)
        subprocess.run([*root, "apt-get", "install", "-qq", "--no-install-recommends", *missing], check=True)
    os.environ["PATH"] += ":/usr/sbin"
    build = ["cargo", "build", "--release", "--locked"]
    subprocess.run([*build, "--bins"], cwd=ROOT, check=True)
    built = subprocess.run([*build, "--bench", "peers", "--message-format=json"], cwd=ROOT, check=True,
                           stdout=subprocess.PIPE, text=True).stdout
    generator = next(artifact["executable"] for artifact in map(json.loads, built.splitlines())
                     if artifact.get("target", {}).get("name") == "peers" and artifact.get("executable"))
    rows = []
    if options.keep and os.path.exists(options.keep):
        with open(options.keep) as file:
            rows = [json.loads(line) for line in file]
    for number in range(options.runs):
        for scenario in SCENARIOS:
            # In turn, so that the machine's mood is the same for all.
            for server in SERVERS:
                print(f"run {number + 1} of {options.runs}: {server}, {' '.join(scenario)}", file=sys.stderr)
                row = once(generator, server, scenario)
                rows += [row] if row else []
                if options.keep and row:
                    with open(options.keep, "a") as file:
                        file.write(json.dumps(row) + "\n")
    print(table(rows))


# What was started ends with this, also when this is told to end.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
main()
