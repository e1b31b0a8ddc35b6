#!/usr/bin/env python3
"""What a setting costs each delivery: history, the publisher's subject and TLS beside the defaults, in turn.

Each round runs every load with every variant once (`benches/run`, a daemon of its own each), so that the machine's mood is
the same for all of them; a ratio is taken within its round. The floor is a bare loop that sends frames as long as the
variant's, without TLS. Usage: benches/options [--runs N] [--binary PATH] [--json] [ARGUMENT...]; arguments behind go to
`philotectl bench` as they are.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

RUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run")
LOADS = {"fanout 1": ["fanout", "--in-flight", "1"], "fanout 16": ["fanout", "--in-flight", "16"], "rooms": ["rooms"]}
# Words for benches/run, and for bench.
VARIANTS = {
    "defaults": ([], []),
    "history, 100 messages": (["--set", "history.messages=100"], []),
    "subject": ([], ["--subject", "somebody"]),
    "TLS": (["--tls"], []),
}
FIGURES = {"server us": ("server_time_per_delivery", 1e6), "floor us": ("floor_time_per_delivery", 1e6),
           "deliveries/s": ("deliveries_per_second", 1), "p50 ms": ("p50", 1e3), "p99 ms": ("p99", 1e3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--binary", help="the directory of philote")
    parser.add_argument("--json", action="store_true")
    options, arguments = parser.parse_known_args()
    binary = ["--binary", options.binary] if options.binary else []
    cells = {(load, variant): [] for load in LOADS for variant in VARIANTS}
    for number in range(options.runs):
        for (load, variant), rows in cells.items():
            print(f"round {number + 1} of {options.runs}: {load}, {variant}", file=sys.stderr)
            settings, words = VARIANTS[variant]
            command = [RUN, "--runs", "1", "--json", *binary, *settings, *LOADS[load], *words, *arguments]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
            row = json.loads(out)[0]
            rows.append({**row, **row["latency"]})
    if options.json:
        return print(json.dumps([{"load": load, "variant": variant, "rows": rows}
                                 for (load, variant), rows in cells.items()], indent=2))
    print(f"| load | with | {' | '.join(FIGURES)} | server's time against defaults (least to most) | lost |")
    print("|" + " --- |" * (len(FIGURES) + 4))
    for (load, variant), rows in cells.items():
        print("| " + " | ".join([load, variant, *figures(rows), ratio(rows, cells[load, "defaults"]),
                                 str(sum(row["lost"] + row["out_of_order"] for row in rows))]) + " |")


def figures(rows):
    for key, scale in FIGURES.values():
        known = [row[key] * scale for row in rows if row[key] is not None]
        yield f"{statistics.median(known):,.{2 if scale > 1 else 0}f}" if known else ""


def ratio(rows, defaults):
    """The median, and how far it went."""
    ratios = [row["server_time_per_delivery"] / other["server_time_per_delivery"] for row, other in zip(rows, defaults)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


main()
