"""The report of a run in Markdown, and its plot."""

from plot import plot

# What each count is called in the report.
COUNTS = [
    ("messages", "messages published"),
    ("acked", "of these acknowledged"),
    ("refused", "of these refused, and never delivered"),
    ("unknown", "of these without an answer: classic clients, and connections that ended before it"),
    ("late NATS", "refusals and unanswered messages because NATS was late, without an order"),
    ("deliveries", "deliveries"),
    ("lost", "lost outside announced closings"),
    ("unseen", "acknowledged while no reader could get them"),
    ("recovered", "resumes without a gap"),
    ("not recovered", "resumes answered with `recovered: false`, all for a reason"),
    ("floors", "exact checks at a leave or a restart: all that was acknowledged before had arrived"),
    ("presence", "presence frames"),
    ("garbage", "connections that sent garbage"),
    ("reloads", "reloads"),
    ("refused reloads", "reloads of wrong settings, all refused"),
    ("hangups", "reloads by SIGHUP"),
    ("rotations", "secrets added"),
    ("withdrawn secrets", "secrets withdrawn"),
    ("certificates", "certificates replaced"),
    ("disconnects", "orders to disconnect a subject"),
    ("restarts", "restarts of a daemon behind its sockets"),
    ("kills", "daemons killed with SIGKILL"),
    ("restarts of NATS", "restarts of NATS"),
    ("violations", "violations"),
]

# What is reported even if it is 0.
ALWAYS = ("lost", "violations")


def table(header, rows):
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(' --- ' for _ in header)}|"]
    return "\n".join(lines + [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows])


def report(world, measure, flat, options, build):
    """Returns the report and the plot."""
    seconds, counts = measure.rates[-1][0] if measure.rates else 1, world.model.counts
    nodes = "one node" if options.nodes == 1 else f"{options.nodes} nodes with NATS"
    title = f"{seconds / 60:.3g} minutes, {nodes}, seed {options.seed}"
    endings = sorted(world.endings.items(), key=lambda row: -row[1])
    sections = [
        f"# Soak: {title}",
        f"{build} Made by `tests/soak/run --minutes {options.minutes:g} --nodes {options.nodes} --seed {options.seed}`.",
        table(["count", "what"], [(f"{counts[key]:,}", what) for key, what in COUNTS if counts[key] or key in ALWAYS]),
        "## How connections ended, as their clients saw it",
        table(["count", "code", "sentence"], [(f"{count:,}", code, reason or "") for (code, reason), count in endings]),
        "## Memory, descriptors and threads",
    ]
    rows = []
    for name, samples in measure.samples.items():
        for what, of in [("memory, MiB", "memory"), *((of, of) for of in ("descriptors", "threads", "connections"))]:
            values = sorted(getattr(sample, of) for sample in samples)
            if values:
                rows.append((name, what, *(f"{values[int(part * (len(values) - 1))]:.4g}" for part in (0, 0.5, 0.99, 1))))
    sections.append(table(["node", "what", "least", "median", "99 %", "most"], rows))
    if flat:
        sections.append(
            "The longest life of each daemon from minute 10 on: the medians of its first and its last quarter. A daemon that"
            " was restarted too often is not judged."
        )
        rows = [(*row[:3], f"{row[3]:.4g}", f"{row[4]:.4g}") for row in flat]
        sections.append(table(["node", "minutes", "what", "first quarter", "last quarter"], rows))
    if world.model.violations:
        sections.append("## Violations")
        sections.append("\n".join(f"- at {at - measure.began:.1f} s: {text}" for at, text in world.model.violations))
    line = lambda samples, of: [(sample.at, getattr(sample, of)) for sample in samples]
    lines = lambda of: [(name, line(samples, of)) for name, samples in measure.samples.items()]
    panels = [
        ("memory (RSS), MiB", lines("memory")),
        ("descriptors", lines("descriptors")),
        ("threads", lines("threads")),
        ("connections", lines("connections")),
        ("deliveries per second, all nodes", [("all", measure.rates)]),
    ]
    marks = [(at - measure.began, kind) for at, kind in world.marks]
    return "\n\n".join(sections) + "\n", plot(title, seconds, panels, marks)
