#!/usr/bin/env python3
"""Measures how cost grows with connections, readers, channels and threads; writes growth.md and growth.svg beside it.

Usage: benches/growth/run [--part connections|readers|channels|threads|text]...; without one: all. `text` writes table and plot
from what earlier parts have left in target/growth.json. Takes a quiet machine with 4 GiB and some four minutes.
"""
import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
KEPT = os.path.join(ROOT, "target/growth.json")
SERVER_CORE, GENERATOR_CORE = "0", "1"
SECRET = "a secret of benches/growth, for loopback only"
CONNECTIONS = [1_000, 5_000, 10_000, 19_000]
# Deliveries a second over connections: less than what a core can do.
DELIVERIES = 20_000
READERS = [1_000, 10_000, 100_000, 1_000_000]
CHANNELS = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000]
THREADS = [1, 2, 4, 8]


def built(*what):
    out = subprocess.run(["cargo", "build", "--release", "--locked", *what, "--message-format=json"], cwd=ROOT, check=True,
                         stdout=subprocess.PIPE, text=True).stdout
    artifacts = (json.loads(line) for line in out.splitlines())
    return {artifact["target"]["name"]: artifact["executable"] for artifact in artifacts if artifact.get("executable")}


def kernel_memory():
    """Bytes of the kernel's objects for sockets and who waits for them; root may look, others see 0.

    Entries of its directory of names, 192 bytes a socket, are left out: everything else that runs makes them, too.
    """
    objects = ("TCP", "TCPv6", "sock_inode_cache", "filp", "eventpoll_epi", "eventpoll_pwq")
    try:
        with open("/proc/slabinfo") as file:
            lines = [line.split() for line in file]
    except PermissionError:
        return 0
    return sum(int(line[1]) * int(line[3]) for line in lines if line[0] in objects)


def connections(binaries):
    rows = []
    for count in CONNECTIONS:
        with tempfile.TemporaryDirectory() as directory:
            path = lambda name: os.path.join(directory, name)
            with open(path("philote.toml"), "w") as file:
                file.write('max_connections = 19900\nlisten = ["127.0.0.1:0"]\n[log]\nlevel = "warn"\n')
            environment = {"PATH": os.environ["PATH"], "HOME": directory, "SECRET": SECRET,
                           "PHILOTE_CONFIG": path("philote.toml"), "PHILOTE_ADMIN_SOCKET": path("admin.sock")}
            daemon = subprocess.Popen(["taskset", "-c", SERVER_CORE, binaries["philote"]], env=environment)
            try:
                ctl = lambda *arguments: [binaries["philotectl"], *arguments]
                subprocess.run(ctl("wait-ready"), env=environment, check=True, stdout=subprocess.DEVNULL)
                time.sleep(1)
                before = kernel_memory()
                bench = lambda *arguments: subprocess.Popen(
                    ["taskset", "-c", GENERATOR_CORE, *ctl("bench", "--json", "--connections", str(count), *arguments)],
                    env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                idle, kernel = bench("idle"), []
                while idle.poll() is None:
                    status = json.loads(subprocess.run(ctl("status", "--json"), env=environment, stdout=subprocess.PIPE).stdout)
                    if status["connections"] == count:
                        kernel.append(kernel_memory() - before)
                    time.sleep(0.2)
                idle = json.loads(idle.communicate()[0])["scenarios"][0]
                # At one pace for all sizes; the floor of fanout would need two descriptors for each reader.
                rate = str(max(1, DELIVERIES // count))
                paced = json.loads(bench("paced", "--rate", rate, "--duration", "5s").communicate()[0])["scenarios"][0]
            finally:
                daemon.terminate()
                daemon.wait()
        rows.append({"connections": count, "bytes": idle["memory_per_connection"],
                     "bytes_after": idle["memory_per_connection_after"], "accept_us": idle["server_time_per_accept"] * 1e6,
                     # Of both ends, while all were there.
                     "kernel_bytes": max(kernel, default=0) / count,
                     "delivery_us": paced["server_time_per_delivery"] * 1e6})
        print(rows[-1], file=sys.stderr)
    return rows


def calls(binaries, part, sizes):
    rows = []
    for size in sizes:
        pinned = [] if part == "threads" else ["taskset", "-c", GENERATOR_CORE]
        rows.append(json.loads(subprocess.run([*pinned, binaries["growth"], part, str(size)], check=True,
                                              stdout=subprocess.PIPE).stdout))
        print(rows[-1], file=sys.stderr)
    return rows


COLUMNS = {
    "connections": [("connections", 0), ("bytes", 0), ("bytes_after", 0), ("kernel_bytes", 0), ("accept_us", 1),
                    ("delivery_us", 2)],
    "readers": [("readers", 0), ("bytes", 0), ("bytes_after", 0), ("bytes_left", 2), ("join_ns", 0), ("all_ns_a_delivery", 0),
                ("rooms_ns_a_delivery", 0), ("leave_ns", 0)],
    "channels": [("channels", 0), ("publish_ns", 0), ("join_and_leave_ns", 0)],
    "threads": [("threads", 0), ("own_rooms_ns_a_delivery", 0), ("own_rooms_a_second", 0), ("one_room_ns_a_delivery", 0),
                ("one_room_a_second", 0)],
}
WORDS = {
    "connections": "connections", "bytes": "bytes each", "bytes_after": "after traffic", "kernel_bytes": "of the kernel, both ends",
    "accept_us": "us an accept", "delivery_us": "us a delivery", "readers": "readers",
    "bytes_left": "left behind", "join_ns": "ns a join", "all_ns_a_delivery": "ns a delivery to all",
    "rooms_ns_a_delivery": "ns a delivery in rooms", "leave_ns": "ns a leave", "channels": "channels", "publish_ns": "ns a message",
    "join_and_leave_ns": "ns a join and leave", "threads": "threads", "own_rooms_ns_a_delivery": "ns a delivery, own rooms",
    "own_rooms_a_second": "a second", "one_room_ns_a_delivery": "ns a delivery, one room", "one_room_a_second": "a second, one room",
}


def table(part, rows):
    names = COLUMNS[part]
    lines = ["| " + " | ".join(WORDS[name] for name, _ in names) + " |", "|" + " ---: |" * len(names)]
    lines += ["| " + " | ".join(f"{row[name]:,.{places}f}" for name, places in names) + " |" for row in rows]
    return "\n".join(lines)


COLORS = ["#1b6ca8", "#c8553d", "#3a7d44", "#7b4b94"]


def panel(left, title, unit, lines, low, high):
    """One plot: both axes logarithmic, so that what is flat is flat and a doubling is a doubling everywhere."""
    width, height, top = 400, 260, 50
    xs = [x for _, points in lines for x, _ in points]
    first, last = math.log10(min(xs)), math.log10(max(xs))
    at_x = lambda x: left + (math.log10(x) - first) / (last - first) * width
    at_y = lambda y: top + height - (math.log10(y) - math.log10(low)) / (math.log10(high) - math.log10(low)) * height
    out = [f'<text x="{left}" y="{top - 22}" font-weight="bold">{title}</text>',
           f'<text x="{left}" y="{top - 6}" fill="#666">{unit}</text>']
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        y = at_y(10 ** power)
        out += [f'<path d="M{left} {y:.1f}h{width}" stroke="#ddd"/>',
                f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10 ** power:,}</text>']
    for power in range(math.ceil(first), math.floor(last) + 1):
        out.append(f'<text x="{at_x(10 ** power):.1f}" y="{top + height + 18}" text-anchor="middle">{10 ** power:,}</text>')
    for number, (name, points) in enumerate(lines):
        color = COLORS[number % len(COLORS)]
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        out += [f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3" fill="{color}"/>' for x, y in points]
        out += [f'<path d="M{left} {top + height + 38 + number * 18}h18" stroke="{color}" stroke-width="2"/>',
                f'<text x="{left + 24}" y="{top + height + 42 + number * 18}">{name}</text>']
    return "\n".join(out)


def plot(figures):
    points = lambda part, x, y: [(row[x], row[y]) for row in figures[part] if row[y] > 0]
    panels = [
        panel(70, "CPU of hub and outboxes", "nanoseconds, by readers", [
            ("a delivery to all", points("readers", "readers", "all_ns_a_delivery")),
            ("a delivery in rooms of ten", points("readers", "readers", "rooms_ns_a_delivery")),
            ("a join", points("readers", "readers", "join_ns")),
            ("a leave", points("readers", "readers", "leave_ns"))], 10, 10_000),
        panel(560, "CPU with sockets", "microseconds, by connections", [
            ("a delivery to all", points("connections", "connections", "delivery_us")),
            ("an accepted connection", points("connections", "connections", "accept_us"))], 1, 100),
        panel(1050, "Memory", "bytes, by readers or connections", [
            ("a reader of hub and outboxes", points("readers", "readers", "bytes_after")),
            ("an idle connection, RSS", points("connections", "connections", "bytes_after")),
            ("the kernel for both its ends", points("connections", "connections", "kernel_bytes"))], 100, 100_000),
    ]
    return ('<svg xmlns="http://www.w3.org/2000/svg" width="1500" height="430" font-family="sans-serif" font-size="12">\n'
            '<rect width="1500" height="430" fill="white"/>\n' + "\n".join(panels) + "\n</svg>\n")


def text(figures):
    with open(os.path.join(HERE, "growth.svg"), "w") as file:
        file.write(plot(figures))
    path = os.path.join(HERE, "growth.md")
    with open(path) as file:
        parts = file.read().split("<!-- ")
    for number, part in enumerate(parts):
        name = part.split(" ")[0]
        if name in figures:
            # From the mark to the next blank line behind the table.
            body = part.split("-->\n", 1)[1].lstrip("\n")
            rest = body.split("\n\n", 1) if body.startswith("|") else ["", body]
            parts[number] = f"{name} -->\n{table(name, figures[name])}\n\n{rest[1] if len(rest) > 1 else ''}"
    with open(path, "w") as file:
        file.write("<!-- ".join(parts))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="append", choices=["connections", "readers", "channels", "threads", "text"])
    wanted = parser.parse_args().part or ["connections", "readers", "channels", "threads", "text"]
    figures = {}
    if os.path.exists(KEPT):
        with open(KEPT) as file:
            figures = json.load(file)
    binaries = {**built("--bins"), **built("--bench", "growth")} if wanted != ["text"] else {}
    for part in wanted:
        if part == "connections":
            figures[part] = connections(binaries)
        elif part != "text":
            figures[part] = calls(binaries, part, {"readers": READERS, "channels": CHANNELS, "threads": THREADS}[part])
        with open(KEPT, "w") as file:
            json.dump(figures, file)
    if "text" in wanted:
        text(figures)


# What was started ends with this, also when this is told to end.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
main()
