"""The processes: nodes behind listening sockets that outlast them, and a NATS server."""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import string
import time
from pathlib import Path

# The settings of every node. Bursts reach the limits of queues; the history reaches back over any restart.
QUEUE_MESSAGES, QUEUE_BYTES, HISTORY, TTL, GRACE = 2000, 256 * 1024, 300, 180, 2
SETTINGS = f"""
listen = [{{ address = "127.0.0.1:$plain", tls = false }}, {{ address = "127.0.0.1:$tls", tls = true }}]
max_connections = $maximum
[auth]
leeway = "1s"
$auth
[websocket]
ping_interval = "10s"
pong_timeout = "30s"
[limits]
queue_messages = {QUEUE_MESSAGES}
queue_bytes = {QUEUE_BYTES}
[history]
messages = {HISTORY}
ttl = "{TTL}s"
bytes = "32MiB"
[presence]
grace = "{GRACE}s"
[tls]
certificate = "$directory/certificate.pem"
key = "$directory/key.pem"
[log]
level = "$level"
[shutdown]
drain = "2s"
"""
CLUSTER = """
[cluster]
servers = ["nats://127.0.0.1:$nats"]
name = "$name"
secret_file = "$directory/cluster.secret"
"""
# The longest that a process may take to start or to end, in seconds.
PATIENCE = 60
# Kept descriptors get numbers from here on, so that the shell can move them to 3 and 4.
KEPT_DESCRIPTORS = 200


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def kept_socket():
    """A listening socket that outlasts the processes that serve it, as those of philote.socket do."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    number = fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD_CLOEXEC, KEPT_DESCRIPTORS)
    listener.close()
    return socket.socket(fileno=number)


class Process:
    """A process that is started, ended, killed and sampled by its id."""

    def __init__(self, name, directory):
        self.name, self.directory, self.process = name, directory, None
        self.started, self.starts = None, 0

    async def spawn(self, *command, **options):
        log = open(self.directory / f"{self.name}.log", "ab")
        with log:
            self.process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, **options
            )
        self.started, self.starts = time.monotonic(), self.starts + 1

    @property
    def pid(self):
        return self.process.pid

    @property
    def running(self):
        return self.process is not None and self.process.returncode is None

    async def end(self, number=signal.SIGTERM):
        """Sends a signal and returns the exit status."""
        if self.running:
            self.process.send_signal(number)
        try:
            return await asyncio.wait_for(self.process.wait(), PATIENCE)
        except asyncio.TimeoutError:
            self.process.kill()
            await self.process.wait()
            return "it did not end in time"

    def sample(self):
        """Memory in MiB, descriptors and threads; None if it is not there."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines())
            descriptors = len(os.listdir(f"/proc/{self.pid}/fd"))
            return int(fields["VmRSS"].split()[0]) / 1024, descriptors, int(fields["Threads"])
        except (OSError, KeyError):
            return None


class Nats(Process):
    """Debian's nats-server with a store of its own."""

    def __init__(self, directory):
        super().__init__("nats", directory)
        self.port = free_port()
        store = directory / "nats"
        config = f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{store}" }}\n'
        (directory / "nats.conf").write_text(config)

    async def start(self):
        # Debian's directory is not in everybody's PATH.
        program = shutil.which("nats-server", path=f"{os.environ['PATH']}:/usr/sbin") or "nats-server"
        await self.spawn(program, "--config", self.directory / "nats.conf")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            await asyncio.sleep(0.05)
        raise RuntimeError("nats-server did not start")


class Node(Process):
    """A philote daemon."""

    def __init__(self, name, root, binaries, nats=None, clustered_secret=None):
        directory = root / name
        directory.mkdir()
        super().__init__(name, directory)
        self.binaries, self.nats = binaries, nats
        self.plain, self.tls = kept_socket(), kept_socket()
        self.plain_port, self.tls_port = self.plain.getsockname()[1], self.tls.getsockname()[1]
        self.environment = {
            "PATH": os.environ["PATH"],
            "STATE_DIRECTORY": str(directory),
            "PHILOTE_CONFIG": str(directory / "philote.toml"),
            "PHILOTE_ADMIN_SOCKET": str(directory / "admin.sock"),
            "RUST_BACKTRACE": "1",
        }
        if nats:
            self.write_private("cluster.secret", clustered_secret)
        # What a reload may change.
        self.level, self.maximum = "info", 1000

    def write_private(self, name, text):
        path = self.directory / name
        with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)

    def configure(self, wrong=""):
        """Writes the settings, and after them what is wrong."""
        text = string.Template(SETTINGS + (CLUSTER if self.nats else "")).substitute(
            plain=self.plain_port,
            tls=self.tls_port,
            maximum=self.maximum,
            # A single node has a secret of its own, which philotectl changes.
            auth=f'secret_file = "{self.directory}/secret.given"' if self.nats else "",
            level=self.level,
            nats=self.nats and self.nats.port,
            name=self.name,
            directory=self.directory,
        )
        (self.directory / "philote.toml").write_text(text + wrong)

    async def start(self):
        """Starts the daemon with its sockets as descriptors 3 and 4, and waits until it serves."""
        plain, tls = self.plain.fileno(), self.tls.fileno()
        move = f"exec 3<&{plain} 4<&{tls} {plain}<&- {tls}<&-"
        # The shell's process id is the daemon's after exec.
        script = f'{move}; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=plain:tls exec "$0"'
        program = str(self.binaries / "philote")
        await self.spawn("bash", "-c", script, program, pass_fds=(plain, tls), env=self.environment)
        status, _, error = await self.ctl("--timeout", "60s", "wait-ready")
        if status != 0:
            raise RuntimeError(f"{self.name} did not start: {error}\n{self.log()[-2000:]}")

    async def ctl(self, *arguments, given=None):
        """Runs philotectl; returns its exit status, output and errors."""
        process = await asyncio.create_subprocess_exec(
            str(self.binaries / "philotectl"), *arguments, env=self.environment,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )
        output, error = await asyncio.wait_for(process.communicate(given and given.encode()), PATIENCE * 2)
        return process.returncode, output.decode(), error.decode()

    async def admin(self, path):
        """Returns the answer of the admin socket to a GET."""
        reader, writer = await asyncio.open_unix_connection(self.environment["PHILOTE_ADMIN_SOCKET"], limit=1 << 22)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: philote\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            lines = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line)
            return (await reader.readexactly(int(lines["content-length"]))).decode()
        finally:
            writer.close()

    async def metrics(self):
        """The metrics without labels, by name, and the sums of those with labels."""
        values = {}
        for line in (await self.admin("/v1/metrics")).splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = name.split("{", 1)[0]
                values[name] = values.get(name, 0) + float(value)
        return values

    async def status(self):
        return json.loads(await self.admin("/v1/status"))

    def log(self):
        return (self.directory / f"{self.name}.log").read_text(errors="replace")
