"""Measures the cost of history, a subject and TLS for each delivery, beside the defaults.

Each round runs every load once with every variant. A ratio compares two runs of the same round. The floor is a bare loop that
sends frames as long as the variant's, without TLS. Arguments that are not listed below go to `philotectl bench`.
"""
import json
import statistics
import tempfile

from measure import harness, loads

LOADS = {"fanout 1": ["fanout", "--in-flight", "1"], "fanout 16": ["fanout", "--in-flight", "16"], "rooms": ["rooms"]}
# Settings of the daemon, and arguments of bench; TLS adds its settings when there is a certificate.
VARIANTS = {
    "defaults": ({}, []),
    "history, 100 messages": ({"history.messages": "100"}, []),
    "subject": ({}, ["--subject", "somebody"]),
    "TLS": ({}, []),
}
FIGURES = {"server us": ("server_time_per_delivery", 1e6, 2), "floor us": ("floor_time_per_delivery", 1e6, 2),
           "deliveries/s": ("deliveries_per_second", 1, 0), "p50 ms": ("p50", 1e3, 2), "p99 ms": ("p99", 1e3, 2)}


def main(words):
    parser = harness.parser("options", __doc__, runs=5)
    parser.epilog = "Arguments that are not listed above go to philotectl bench."
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options, arguments = parser.parse_known_args(words)
    harness.build("--bins")
    cells = {(load, variant): [] for load in LOADS for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as directory:
        certificate = harness.make_certificate(directory)
        for number in range(options.runs):
            for (load, variant), rows in cells.items():
                harness.say(f"round {number + 1} of {options.runs}: {load}, {variant}")
                settings, added = VARIANTS[variant]
                settings = {**settings, **(certificate if variant == "TLS" else {})}
                rows.append(harness.flat(loads.once(options.philote, [*LOADS[load], *added, *arguments], settings)[0]))
    if options.json:
        return print(json.dumps([{"load": load, "variant": variant, "rows": rows}
                                 for (load, variant), rows in cells.items()], indent=2))
    head = ["load", "with", *FIGURES, "server's time against defaults (least to most)", "lost"]
    print(harness.table(head, (
        [load, variant, *(harness.median((row[key] for row in rows), scale, places) for key, scale, places in FIGURES.values()),
         ratio(rows, cells[load, "defaults"]), str(sum(row["lost"] + row["out_of_order"] for row in rows))]
        for (load, variant), rows in cells.items())))


def ratio(rows, defaults):
    """The median of the rounds' ratios, the least and the greatest."""
    ratios = [row["server_time_per_delivery"] / other["server_time_per_delivery"] for row, other in zip(rows, defaults)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
