"""Samples the server with perf while a load runs, and prints which share of its time fell into what.

The shares are those of the kernel, of philote and of libc; `--symbols` adds the functions in which most time was spent.
"""
import collections
import shutil
import subprocess
import sys

from measure import harness

LOADS = {
    "fanout-1": (1_001, ["fanout", "--in-flight", "1"]),
    "fanout-16": (1_001, ["fanout", "--in-flight", "16"]),
    "rooms": (2_000, ["rooms"]),
}
# Samples a second: no multiple of the kernel's ticks or of the server's timers.
FREQUENCY = 999
PARTS = ["kernel", "philote", "libc"]


def sample(philote, load, duration):
    """Runs a load, and returns the number of samples by part and function."""
    connections, arguments = LOADS[load]
    with harness.Daemon(philote) as daemon:
        bench = daemon.bench(*arguments, "--duration", f"{duration + 2}s")
        daemon.wait_for(connections)
        subprocess.run(["perf", "record", "--quiet", "--freq", str(FREQUENCY), "--pid", str(daemon.process.pid),
                        "--output", daemon.path("perf.data"), "--", "sleep", str(duration)], check=True)
        fields = subprocess.run(["perf", "script", "--input", daemon.path("perf.data"), "--fields", "ip,sym,dso"], check=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        harness.rows(bench)
    return collections.Counter(map(place, fields.splitlines()))


def place(line):
    """The part and the function of a sample such as `7f12 __libc_send (/usr/lib/libc.so.6)`."""
    words, _, binary = line.strip().rpartition(" (")
    function = words.partition(" ")[2] or "[unknown]"
    # Modules of the kernel are in brackets, too.
    if binary.startswith("[") and not binary.startswith("[vdso]"):
        return "kernel", function
    name = binary.rstrip(")").rsplit("/", 1)[-1]
    return ("libc" if name.startswith("libc") else name), function


def main(words):
    parser = harness.parser("profile", __doc__)
    parser.add_argument("load", nargs="*", help=f"{', '.join(LOADS)} [default: all of them]")
    parser.add_argument("--duration", type=int, default=10, metavar="SECONDS", help="of each [default: 10]")
    parser.add_argument("--symbols", type=int, default=0, metavar="N", help="print the N functions with most samples, too")
    options = parser.parse_args(words)
    if unknown := set(options.load) - set(LOADS):
        parser.error(f"no load is called {', '.join(sorted(unknown))}; the loads are {', '.join(LOADS)}")
    if not shutil.which("perf"):
        sys.exit("benches/run profile: perf is missing; on Debian: apt-get install linux-perf")
    harness.build("--bins")
    rows, functions = [], []
    for load in options.load or LOADS:
        harness.say(f"load {load}")
        samples = sample(options.philote, load, options.duration)
        parts, total = collections.Counter(), samples.total()
        for (part, _), count in samples.items():
            parts[part] += count
        share = lambda count: f"{100 * count / total:.1f} %"
        others = total - sum(parts[part] for part in PARTS)
        rows.append([load, *(share(parts[part]) for part in PARTS), share(others), f"{total:,}"])
        functions += [[load, part, function, share(count)]
                      for (part, function), count in samples.most_common(options.symbols)]
    print(harness.table(["load", *PARTS, "others", "samples"], rows, left=1))
    if functions:
        print(f"\n{harness.table(['load', 'part', 'function', 'share'], functions)}")
