"""Measures each load several times, with a daemon of its own, and prints the medians.

Arguments that are not listed below go to `philotectl bench`.
"""
import argparse
import json
import statistics
import tempfile

from measure import harness
from measure.harness import figure

# Each load, with the arguments of its usual runs.
SCENARIOS = {
    "fanout": [["--in-flight", "1"], ["--in-flight", "16"]],
    "rooms": [[]],
    "paced": [[]],
    "stream": [[]],
    "idle": [["--connections", "10000"], ["--connections", "19000"]],
}


def once(philote, load, settings):
    """Runs one load against a daemon of its own, and returns its rows."""
    with harness.Daemon(philote, settings) as daemon:
        return harness.rows(daemon.bench(*load))


def median(rows):
    """The median of each figure; the ratio to the floor is taken run by run."""
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


HEAD = ["scenario", "connections", "deliveries/s", "p50 / p99 / p99.9 ms", "server us", "floor us", "ratio", "generator us",
        "lost, disordered", "bytes each, after traffic", "us an accept"]


def cells(row):
    latency = row["latency"] or {}
    memory = [row[key] for key in ("memory_per_connection", "memory_per_connection_after")]
    return [
        row["scenario"],
        figure(row["connections"], 1, 0),
        figure(row["deliveries_per_second"] or None, 1, 0),
        " / ".join(figure(latency[key], 1e3) for key in ("p50", "p99", "p999") if key in latency),
        figure(row["server_time_per_delivery"], 1e6),
        figure(row["floor_time_per_delivery"], 1e6),
        figure(row.get("ratio")),
        figure(row["generator_time_per_delivery"], 1e6),
        f"{row['lost']:.0f}, {row['out_of_order']:.0f}",
        ", ".join(figure(value, 1, 0) for value in memory if value is not None),
        figure(row["server_time_per_accept"], 1e6, 1),
    ]


def main(scenarios, words):
    parser = harness.parser(" ".join(scenarios), __doc__, runs=5)
    parser.epilog = __doc__.splitlines()[-1].replace("listed below", "listed above")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--set", action="append", type=harness.setting, default=[], metavar="KEY=VALUE",
                        help="a setting of the daemon, such as history.messages=100 (repeatable)")
    parser.add_argument("--tls", action="store_true", help="serve over TLS; the floor stays without")
    options, arguments = parser.parse_known_args(words)
    # Arguments for bench replace those of the usual runs.
    loads = [[name, *usual] for name in scenarios for usual in ([arguments] if arguments else SCENARIOS[name])]
    harness.build("--bins")
    measured = [[] for _ in loads]
    with tempfile.TemporaryDirectory() as directory:
        settings = {**dict(options.set), **(harness.make_certificate(directory) if options.tls else {})}
        # In turn, so that a change in the machine's speed affects all loads alike.
        for number in range(options.runs):
            for runs, load in zip(measured, loads):
                harness.say(f"run {number + 1} of {options.runs}: {' '.join(load)}")
                runs.append(once(options.philote, load, settings))
    # One load may have several rows, as fanout has without --in-flight.
    medians = [median(rows) for runs in measured for rows in zip(*runs)]
    print(json.dumps(medians, indent=2) if options.json else harness.table(HEAD, map(cells, medians)))
