"""Measures how cost grows with connections, readers, channels and threads, and writes growth.md and growth.svg.

`text` writes the tables and the plot from what earlier parts have left in target/growth.json. All parts need a quiet machine
with 4 GiB, and take some four minutes.
"""
import json
import math
import os
import subprocess
import sys
import time

from measure import harness

HERE = "benches/growth"
KEPT = "target/growth.json"
# Deliveries a second over connections: less than a core can do.
DELIVERIES = 20_000
# The sizes of each part.
SIZES = {
    "connections": [1_000, 5_000, 10_000, 19_000],
    "readers": [1_000, 10_000, 100_000, 1_000_000],
    "channels": [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000],
    "threads": [1, 2, 4, 8],
}


def kernel_memory():
    """Bytes of the kernel's objects for sockets and their waiters; 0 where only root may read them.

    Directory entries, 192 bytes a socket, are left out: every other process on the machine makes them, too.
    """
    objects = ("TCP", "TCPv6", "sock_inode_cache", "filp", "eventpoll_epi", "eventpoll_pwq")
    try:
        with open("/proc/slabinfo") as file:
            lines = [line.split() for line in file]
    except PermissionError:
        return 0
    return sum(int(line[1]) * int(line[3]) for line in lines if line[0] in objects)


def connections(philote, count):
    """Cost of connections over loopback."""
    with harness.Daemon(philote) as daemon:
        time.sleep(1)
        before, kernel = kernel_memory(), []
        bench = daemon.bench("idle", "--connections", str(count))
        while bench.poll() is None:
            if daemon.status()["connections"] == count:
                kernel.append(kernel_memory() - before)
            time.sleep(0.2)
        idle = harness.rows(bench)[0]
        # The same deliveries a second for all sizes. fanout's floor would need two descriptors for each reader.
        rate = str(max(1, DELIVERIES // count))
        paced = harness.rows(daemon.bench("paced", "--connections", str(count), "--rate", rate, "--duration", "5s"))[0]
    return {"connections": count, "bytes": idle["memory_per_connection"],
            "bytes_after": idle["memory_per_connection_after"], "accept_us": idle["server_time_per_accept"] * 1e6,
            # Of both ends, while all were open.
            "kernel_bytes": max(kernel, default=0) / count,
            "delivery_us": paced["server_time_per_delivery"] * 1e6}


def in_process(growth, part, size):
    """Cost of hub and outboxes, without sockets."""
    pinned = [] if part == "threads" else ["taskset", "-c", harness.GENERATOR_CORE]
    return json.loads(subprocess.run([*pinned, growth, part, str(size)], check=True, stdout=subprocess.PIPE).stdout)


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
    "connections": "connections", "bytes": "bytes each", "bytes_after": "after traffic", "kernel_bytes": "kernel, both ends",
    "accept_us": "us an accept", "delivery_us": "us a delivery", "readers": "readers",
    "bytes_left": "left behind", "join_ns": "ns a join", "all_ns_a_delivery": "ns a delivery to all",
    "rooms_ns_a_delivery": "ns a delivery in rooms", "leave_ns": "ns a leave", "channels": "channels", "publish_ns": "ns a message",
    "join_and_leave_ns": "ns a join and leave", "threads": "threads", "own_rooms_ns_a_delivery": "ns a delivery, own rooms",
    "own_rooms_a_second": "a second", "one_room_ns_a_delivery": "ns a delivery, one room", "one_room_a_second": "a second, one room",
}


def table(part, rows):
    body = ([harness.figure(row[name], 1, places) for name, places in COLUMNS[part]] for row in rows)
    return harness.table([WORDS[name] for name, _ in COLUMNS[part]], body, left=0)


COLORS = ["#1b6ca8", "#c8553d", "#3a7d44", "#7b4b94"]


def panel(left, title, unit, lines, low, high):
    """One plot. Both axes are logarithmic, so that a doubling has the same height everywhere."""
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
            ("the kernel, for both ends", points("connections", "connections", "kernel_bytes"))], 100, 100_000),
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
            # The table between the mark and the next blank line is replaced.
            body = part.split("-->\n", 1)[1].lstrip("\n")
            rest = body.split("\n\n", 1) if body.startswith("|") else ["", body]
            parts[number] = f"{name} -->\n{table(name, figures[name])}\n\n{rest[1] if len(rest) > 1 else ''}"
    with open(path, "w") as file:
        file.write("<!-- ".join(parts))


def main(words):
    parser = harness.parser("growth", __doc__)
    parser.add_argument("part", nargs="*", help=f"{', '.join(SIZES)} or text [default: all of them]")
    parser.add_argument("--most", type=int, metavar="N", help="leave out sizes over N; nothing is written then")
    options = parser.parse_args(words)
    parts = [*SIZES, "text"]
    wanted = options.part or parts
    if unknown := set(wanted) - set(parts):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; the parts are {', '.join(parts)}")
    figures = {}
    if os.path.exists(KEPT) and not options.most:
        with open(KEPT) as file:
            figures = json.load(file)
    programs = harness.build("--bins", "--bench", "growth") if wanted != ["text"] else {}
    for part in wanted:
        if part != "text":
            figures[part] = measure(part, options, programs["growth"])
            print(f"{table(part, figures[part])}\n", flush=True)
    if options.most:
        return
    with open(KEPT, "w") as file:
        json.dump(figures, file)
    if "text" in wanted:
        if missing := [part for part in SIZES if part not in figures]:
            sys.exit(f"benches/run growth: text needs the figures of {', '.join(missing)}; measure these parts first")
        text(figures)


def measure(part, options, growth):
    rows = []
    for size in SIZES[part]:
        if size <= (options.most or size):
            harness.say(f"{size:,} {part}")
            rows.append(connections(options.philote, size) if part == "connections" else in_process(growth, part, size))
    return rows
