"""Measures how all clients of a proxy come back when its reload disconnects them at once.

nginx is in front of the server, on the Unix socket of packaging/proxies/nginx.conf or over TCP. Its setting
worker_shutdown_timeout closes all connections a second after the reload. The clients come back at once and without the
backoff of the npm client. Server, proxy and clients share the cores, and nginx speaks no TLS, which would slow the storm.
"""
import json
import os
import resource
import signal
import subprocess
import threading
import time

from measure import harness

CONNECTIONS = 15_000
# nginx needs two descriptors for each client, and each of its workers may open 20,000.
NGINX = """
worker_processes 4;
worker_rlimit_nofile {files};
worker_shutdown_timeout 1s;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log error;
events {{ worker_connections 9900; }}
http {{
    access_log off;
    {temporary}
    server {{
        listen {port} backlog=4096;
        location / {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
        }}
    }}
}}
"""


def main(words):
    parser = harness.parser("storm", __doc__, runs=1)
    parser.add_argument("--connections", type=int, default=CONNECTIONS, metavar="N", help=f"[default: {CONNECTIONS}]")
    options = parser.parse_args(words)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    built = harness.build("--bins", "--bench", "storm")
    for upstream in ("unix", "tcp"):
        for _ in range(options.runs):
            show(upstream, options.connections, *measure(built["storm"], upstream, options, hard))


def measure(storm, upstream, options, files):
    # The scratch directory is made by the daemon's block, so the socket is in one of its own.
    socket = f"/tmp/philote-storm-{os.getpid()}.sock"
    settings = {"listen": f'["127.0.0.1:0", "unix:{socket}"]', "limits.trusted_proxies": '["unix", "127.0.0.1"]'}
    with harness.Daemon(options.philote, settings) as daemon:
        # Not on a core of its own: the proxy needs more.
        subprocess.run(["taskset", "-a", "-p", "-c", f"0-{os.cpu_count() - 1}", str(daemon.process.pid)], check=True,
                       stdout=subprocess.DEVNULL)
        direct, port = daemon.address()[1], free_port()
        config = daemon.path("nginx.conf")
        temporary = " ".join(f"{name}_temp_path {daemon.directory.name}/{name};"
                             for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        with open(config, "w") as file:
            file.write(NGINX.format(files=files, directory=daemon.directory.name, port=port, temporary=temporary,
                                    upstream=f"unix:{socket}" if upstream == "unix" else f"127.0.0.1:{direct}"))
        nginx = daemon.start(["/usr/sbin/nginx", "-p", daemon.directory.name, "-e", "stderr", "-c", config])
        try:
            wait_for_port(port)
            clients = daemon.start([storm, str(port), str(direct), str(options.connections), daemon.token("c")],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert clients.stdout.readline() == "open\n"
            before, watch = usage(daemon), Watch(daemon)
            nginx.send_signal(signal.SIGHUP)
            figures = json.loads(clients.stdout.readline())
            worst = watch.stop()
            after = usage(daemon)
            refused = json.loads(daemon.ctl("connections", "--state", "closed", "--limit", "10000", "--json"))["connections"]
            reasons = {}
            for row in refused:
                reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
            with open(daemon.path("nginx-error.log")) as file:
                errors = file.read().splitlines()
        finally:
            nginx.send_signal(signal.SIGTERM)
            nginx.wait()
        return figures, before, worst, after, reasons, errors


class Watch:
    """Samples the server's usage until it is stopped."""

    def __init__(self, daemon):
        self.daemon, self.samples, self.over = daemon, [], threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.over.wait(0.05):
            self.samples.append(usage(self.daemon))

    def stop(self):
        self.over.set()
        self.thread.join()
        return [max(values) for values in zip(*self.samples)]


def usage(daemon):
    """CPU seconds, resident bytes and descriptors of the server."""
    process = f"/proc/{daemon.process.pid}"
    with open(f"{process}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"{process}/fd"))


def free_port():
    import socket
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for_port(port):
    import socket
    began = time.monotonic()
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() - began < harness.PATIENCE
            time.sleep(0.02)


def show(upstream, connections, figures, before, worst, after, reasons, errors):
    milliseconds = {name: {key: round(value * 1e3, 1) for key, value in figures[name].items()} for name in ("attempt", "direct")}
    print(f"{connections:,} clients through nginx ({upstream}), lost within {figures['lost_within']:.2f} s; "
          f"all are back after {figures['all_back_after']:.2f} s")
    print(f"  a client's attempt, ms:               {milliseconds['attempt']}")
    print(f"  {figures['direct_count']} clients without the proxy, ms:   {milliseconds['direct']}")
    print(f"  refused attempts:                     {figures['refusals'] or 'none'}")
    print(f"  the server closed or refused:         {reasons}")
    print(f"  CPU seconds of the server:            {after[0] - before[0]:.2f}")
    for title, at, scale, unit in (("memory", 1, 1e-6, "MB"), ("descriptors", 2, 1, "")):
        print(f"  {title + ', before/worst/after:':37} {' / '.join(f'{one[at] * scale:,.0f}' for one in (before, worst, after))} {unit}")
    if errors:
        print(f"  nginx, {len(errors)} errors: {errors[0][:200]}")
