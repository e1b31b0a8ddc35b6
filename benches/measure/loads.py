#!/usr/bin/env python3
"""Measures the release build: every scenario several times, each with a daemon of its own, and prints the medians.

Server and generator have a core each. Usage: benches/run [--runs N] [--binary PATH] [--json] [--set KEY=VALUE]... [--tls]
[SCENARIO ARGUMENT...]; without a scenario: those of the README. Arguments behind it go to `philotectl bench` as they are.
`--set history.messages=100` is put into the daemon's file; `--tls` puts the daemon behind TLS, with a certificate made for
that, while the floor stays what it is without.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SERVER_CORE, GENERATOR_CORE = "0", "1"
SCENARIOS = [["fanout", "--in-flight", "1"], ["fanout", "--in-flight", "16"], ["rooms"], ["paced"], ["stream"],
             ["idle", "--connections", "10000"], ["idle", "--connections", "19000"]]
SECRET = "a secret of benches/run, for loopback only"


def setting(text):
    """KEY=VALUE as a line of the daemon's file; a value that is no TOML is a string."""
    key, value = text.split("=", 1)
    plain = re.fullmatch(r'[\d.]+|true|false|".*"|\[.*\]|\{.*\}', value)
    return key, value if plain else json.dumps(value)


def make_certificate(directory):
    """A certificate for loopback that vouches for itself, and its key: the settings that name them."""
    files = [os.path.join(directory, name) for name in ("certificate.pem", "key.pem")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-out", files[0], "-keyout", files[1], "-days", "90", "-subj", "/CN=benches",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"],
                   check=True, stderr=subprocess.DEVNULL)
    return {"tls.certificate": json.dumps(files[0]), "tls.key": json.dumps(files[1])}


def once(binary, scenario, settings):
    """One scenario against a daemon of its own: its row."""
    with tempfile.TemporaryDirectory() as directory:
        path = lambda name: os.path.join(directory, name)
        settings = {"max_connections": "19900", "listen": '["127.0.0.1:0"]', "log.level": '"warn"', **settings}
        with open(path("philote.toml"), "w") as file:
            file.writelines(f"{key} = {value}\n" for key, value in settings.items())
        environment = {"PATH": os.environ["PATH"], "HOME": directory, "SECRET": SECRET,
                       "PHILOTE_CONFIG": path("philote.toml"), "PHILOTE_ADMIN_SOCKET": path("admin.sock")}
        philote = os.path.join(binary, "philote")
        subprocess.run([philote, "--check"], env=environment, check=True, stdout=subprocess.DEVNULL)
        daemon = subprocess.Popen(["taskset", "-c", SERVER_CORE, philote], env=environment)
        try:
            ctl = os.path.join(ROOT, "target/release/philotectl")
            subprocess.run([ctl, "wait-ready"], env=environment, check=True, stdout=subprocess.DEVNULL)
            command = ["taskset", "-c", GENERATOR_CORE, ctl, "bench", "--json", *scenario]
            if "tls.certificate" in settings:
                command += behind_tls(ctl, environment, settings, path("secret"), daemon.pid)
            answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
            return json.loads(answer.stdout)["scenarios"][0]
        finally:
            daemon.terminate()
            daemon.wait()


def behind_tls(ctl, environment, settings, secret, pid):
    """How bench finds a daemon that it can't just ask."""
    status = subprocess.run([ctl, "status", "--json"], env=environment, check=True, stdout=subprocess.PIPE).stdout
    address = json.loads(status)["listeners"][0].split()[0]
    with open(secret, "w") as file:
        file.write(SECRET)
    return ["--url", f"wss://{address}", "--ca", json.loads(settings["tls.certificate"]), "--secret-file", secret,
            "--pid", str(pid)]


def median(rows):
    """The median of each figure, and of the ratio to the floor taken run by run."""
    result = {}
    for key, value in rows[0].items():
        if isinstance(value, dict):
            result[key] = median([row[key] for row in rows])
        elif isinstance(value, (int, float)):
            result[key] = statistics.median(row[key] for row in rows)
        else:
            result[key] = value
    if rows[0].get("floor_time_per_delivery"):
        ratios = [row["server_time_per_delivery"] / row["floor_time_per_delivery"] for row in rows]
        result["ratio"] = statistics.median(ratios)
        result["ratios"] = [round(ratio, 2) for ratio in sorted(ratios)]
    return result


def table(rows):
    """Markdown."""
    def figure(value, scale, places=2):
        return "" if value is None else f"{value * scale:,.{places}f}"
    lines = ["| scenario | connections | deliveries/s | p50 / p99 / p99.9 ms | server us | floor us | ratio | "
             "generator us | lost, disordered | bytes each, after traffic | us an accept |", "|" + " --- |" * 11]
    for row in rows:
        latency = row["latency"] or {}
        lines.append("| " + " | ".join([
            row["scenario"],
            figure(row["connections"], 1, 0),
            figure(row["deliveries_per_second"] or None, 1, 0),
            " / ".join(figure(latency[key], 1e3) for key in ("p50", "p99", "p999") if key in latency),
            figure(row["server_time_per_delivery"], 1e6),
            figure(row["floor_time_per_delivery"], 1e6),
            figure(row.get("ratio"), 1),
            figure(row["generator_time_per_delivery"], 1e6),
            f"{row['lost']:.0f}, {row['out_of_order']:.0f}",
            ", ".join(figure(row[key], 1, 0) for key in ("memory_per_connection", "memory_per_connection_after")
                      if row[key] is not None),
            figure(row["server_time_per_accept"], 1e6, 1),
        ]) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--binary", default=os.path.join(ROOT, "target/release"), help="the directory of philote")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--set", action="append", type=setting, default=[], metavar="KEY=VALUE")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("scenario", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    scenarios = [options.scenario] if options.scenario else SCENARIOS
    settings = dict(options.set)
    certificates = tempfile.TemporaryDirectory()
    if options.tls:
        settings |= make_certificate(certificates.name)
    runs = [[] for _ in scenarios]
    # In turn, so that the machine's mood is the same for all of them.
    for number in range(options.runs):
        for rows, scenario in zip(runs, scenarios):
            print(f"run {number + 1} of {options.runs}: {' '.join(scenario)}", file=sys.stderr)
            rows.append(once(options.binary, scenario, settings))
    medians = [median(rows) for rows in runs]
    print(json.dumps(medians, indent=2) if options.json else table(medians))


main()
