"""Builds the programs, starts servers and load generators on a core each, and formats figures."""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

# The directory from which `benches/run` works: the root of the repository.
RELEASE = "target/release"
SERVER_CORE, GENERATOR_CORE = "0", "1"
SECRET = "a secret of benches/run, for loopback only"
# Below the 20,000 descriptors that one process may open on many systems.
MAX_CONNECTIONS = 19_900
SETTINGS = {"max_connections": str(MAX_CONNECTIONS), "listen": '["127.0.0.1:0"]', "log.level": '"warn"'}
# Seconds that opening connections may take.
PATIENCE = 120


def parser(name, module, runs=None):
    """The arguments that measurements share: which server, and how many runs."""
    result = argparse.ArgumentParser(prog=f"benches/run {name}", description=module.splitlines()[0])
    result.add_argument("--philote", metavar="FILE", help="the server to measure [default: the release build of this tree]")
    if runs:
        result.add_argument("--runs", type=int, default=runs, metavar="N", help=f"[default: {runs}]")
    return result


def build(*targets):
    """Builds targets of this package for release, and returns their executables by name."""
    out = subprocess.run(["cargo", "build", "--release", "--locked", *targets, "--message-format=json-render-diagnostics"],
                         check=True, stdout=subprocess.PIPE, text=True).stdout
    artifacts = (json.loads(line) for line in out.splitlines())
    return {artifact["target"]["name"]: artifact["executable"] for artifact in artifacts if artifact.get("executable")}


def say(text):
    """Progress goes to standard error: standard output has the figures only."""
    print(text, file=sys.stderr, flush=True)


class Daemon:
    """A philote on a free port of loopback with a scratch directory of its own, for the length of a `with` block."""

    def __init__(self, philote=None, settings=None):
        self.philote = philote or os.path.join(RELEASE, "philote")
        self.settings = {**SETTINGS, **(settings or {})}
        self.started = []

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory()
        with open(self.path("philote.toml"), "w") as file:
            file.writelines(f"{key} = {value}\n" for key, value in self.settings.items())
        self.environment = {"PATH": os.environ["PATH"], "HOME": self.directory.name, "SECRET": SECRET,
                            "PHILOTE_CONFIG": self.path("philote.toml"), "PHILOTE_ADMIN_SOCKET": self.path("admin.sock")}
        subprocess.run([self.philote, "--check"], env=self.environment, check=True, stdout=subprocess.DEVNULL)
        self.process = self.start(["taskset", "-c", SERVER_CORE, self.philote])
        try:
            self.ctl("wait-ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # Clients first, so that the server does not drain them. Nothing that it would write at its end is wanted.
        for process in reversed(self.started):
            process.kill()
            process.wait()
        self.directory.cleanup()

    def path(self, name):
        return os.path.join(self.directory.name, name)

    def start(self, command, **options):
        """Starts a process that ends with the `with` block at the latest."""
        self.started.append(subprocess.Popen(command, env=self.environment, **options))
        return self.started[-1]

    def ctl(self, *arguments):
        """Runs philotectl, and returns what it prints."""
        command = ["taskset", "-c", GENERATOR_CORE, os.path.join(RELEASE, "philotectl"), *arguments]
        return subprocess.run(command, env=self.environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    def status(self):
        return json.loads(self.ctl("status", "--json"))

    def address(self):
        """Host and port of its listener."""
        host, port = self.status()["listeners"][0].split()[0].rsplit(":", 1)
        return host.strip("[]"), int(port)

    def token(self, channel):
        """A token that reads a channel."""
        return json.loads(self.ctl("token", "--read", channel, "--expires-in", "1h", "--json"))["token"]

    def bench(self, *arguments, before=()):
        """Starts `philotectl bench`; `before` are words of a command that runs it. `rows` waits for its figures."""
        command = [*before, "taskset", "-c", GENERATOR_CORE, os.path.join(RELEASE, "philotectl"), "bench", "--json", *arguments]
        if "tls.certificate" in self.settings:
            command += self.over_tls()
        return self.start(command, stdout=subprocess.PIPE, text=True)

    def over_tls(self):
        """The arguments by which bench reaches a server over TLS and signs its tokens."""
        with open(self.path("secret"), "w") as file:
            file.write(SECRET)
        host, port = self.address()
        return ["--url", f"wss://{host}:{port}", "--ca", json.loads(self.settings["tls.certificate"]),
                "--secret-file", self.path("secret"), "--pid", str(self.process.pid)]

    def wait_for(self, connections):
        """Waits until that many connections are open."""
        began = time.monotonic()
        while (now := self.status()["connections"]) < connections:
            if time.monotonic() - began > PATIENCE:
                sys.exit(f"benches/run: {now} of {connections} connections were open after {PATIENCE} s")
            time.sleep(0.05)


def rows(bench):
    """Waits for a load generator, and returns its figures, one row for each scenario."""
    out, _ = bench.communicate()
    if bench.returncode:
        # It has said why on standard error.
        sys.exit(f"benches/run: philotectl bench failed with exit status {bench.returncode}")
    return json.loads(out)["scenarios"]


def upgrade_request(token):
    """The request that opens a WebSocket connection."""
    return ("GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: cGhpbG90ZWN0bCBiZW5jaA==\r\nAuthorization: Bearer {token}\r\n\r\n").encode()


def setting(text):
    """KEY=VALUE as a pair for the configuration file; a value that is not TOML is a string."""
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text} is not KEY=VALUE")
    plain = re.fullmatch(r'[\d.]+|true|false|".*"|\[.*\]|\{.*\}', value)
    return key, value if plain else json.dumps(value)


def make_certificate(directory):
    """Makes a self-signed certificate for loopback, and returns the settings that name it and its key."""
    files = [os.path.join(directory, name) for name in ("certificate.pem", "key.pem")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-out", files[0], "-keyout", files[1], "-days", "90", "-subj", "/CN=benches",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"],
                   check=True, stderr=subprocess.DEVNULL)
    return {"tls.certificate": json.dumps(files[0]), "tls.key": json.dumps(files[1])}


def figure(value, scale=1, places=2):
    """A number with thousands separators; empty where it was not measured."""
    return "" if value is None else f"{value * scale:,.{places}f}"


def median(values, scale=1, places=2):
    """The median of the values that were measured, as text."""
    known = [value for value in values if value is not None]
    return figure(statistics.median(known), scale, places) if known else ""


def flat(row):
    """A row with its latencies beside the other figures."""
    return {**row, **(row["latency"] or {})}


def table(head, body, left=None):
    """A Markdown table; the columns after the first `left` are aligned to the right."""
    lines = [head, ["---" if left is None or at < left else "---:" for at in range(len(head))], *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
