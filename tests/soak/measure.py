"""Samples of each node, and whether they stay flat."""

import asyncio
import statistics

# From here on the samples of one process must be flat, in seconds; and how long it must last to be judged.
SETTLED, JUDGED = 600, 600
# How much the median of the last quarter may be above that of the first: memory in MiB and as a share, descriptors beside
# those of connections, threads.
MEMORY, MEMORY_SHARE, DESCRIPTORS, THREADS = 2, 0.1, 3, 1
# What no sample may exceed, however short the run: MiB, descriptors beside those of connections, threads.
MOST_MEMORY, MOST_DESCRIPTORS, MOST_THREADS = 192, 120, 64


class Sample:
    """The state of a process at one time."""

    __slots__ = ("at", "start", "memory", "descriptors", "threads", "connections", "queued")

    def __init__(self, at, start, memory, descriptors, threads, connections, queued):
        self.at, self.start, self.memory, self.descriptors = at, start, memory, descriptors
        self.threads, self.connections, self.queued = threads, connections, queued


class Measure:
    """Takes the samples of a run."""

    def __init__(self, world, interval):
        self.world, self.interval, self.began = world, interval, world.now()
        self.samples, self.rates, self.links = {node.name: [] for node in world.nodes}, [], {}

    async def run(self):
        before = self.world.model.counts["deliveries"]
        while not self.world.stopping:
            await asyncio.sleep(self.interval)
            now = self.world.model.counts["deliveries"]
            self.rates.append((self.world.now() - self.began, (now - before) / self.interval))
            before = now
            for node in self.world.nodes:
                await self.sample(node)

    async def sample(self, node):
        """Takes one sample, unless the node is about to end or to start."""
        start, at = node.starts, self.world.now() - self.began
        try:
            metrics = await asyncio.wait_for(node.metrics(), 30)
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            if not self.world.may_break(node):
                self.world.model.fail(f"{node.name} did not give its metrics: {type(error).__name__} {error}")
            return
        process = node.sample()
        if process is None or node.starts != start or self.world.order("kill", "restart", node=node, ended=None):
            return
        self.notice_link(node, metrics)
        if metrics["philote_panics_total"]:
            self.world.model.fail(f"{node.name} counts {metrics['philote_panics_total']} panics")
        connections = metrics["philote_connections"] + metrics["philote_connections_pending"]
        sample = Sample(at, start, *process, connections, metrics["philote_queued_bytes"])
        self.samples[node.name].append(sample)
        self.judge_bounds(node, sample)

    def notice_link(self, node, metrics):
        """On a busy machine a link to NATS ends by itself, which holds messages back."""
        ended = node.starts, metrics.get("philote_cluster_link_ended_total", 0)
        before = self.links.get(node.name, ended)
        self.links[node.name] = ended
        down = metrics.get("philote_cluster_link_up", 1) == 0
        if (down or before != ended) and self.world.model.calm_since is not None:
            self.world.model.calm_since = self.world.now()

    def judge_bounds(self, node, sample):
        beside = sample.descriptors - sample.connections
        for value, most, what in [
            (sample.memory, MOST_MEMORY, "MiB of memory"),
            (beside, MOST_DESCRIPTORS, "descriptors beside those of connections"),
            (sample.threads, MOST_THREADS, "threads"),
        ]:
            if value > most:
                self.world.model.fail(f"{node.name} has {value:.0f} {what}, more than {most}")

    def flatness(self):
        """Judges the longest life of each node from minute 10 on. Returns rows for the report: node, what, before, after."""
        rows = []
        for name, samples in self.samples.items():
            lives = {}
            for sample in samples:
                if sample.at >= SETTLED:
                    lives.setdefault(sample.start, []).append(sample)
            life = max(lives.values(), key=lambda life: life[-1].at - life[0].at, default=[])
            if not life or life[-1].at - life[0].at < JUDGED:
                continue
            quarter = max(1, len(life) // 4)
            first, last = life[:quarter], life[-quarter:]
            span = f"{life[0].at / 60:.0f} to {life[-1].at / 60:.0f}"
            for what, of, allowed in [
                ("memory, MiB", lambda one: one.memory, lambda before: before * MEMORY_SHARE + MEMORY),
                ("descriptors beside connections", lambda one: one.descriptors - one.connections, lambda _: DESCRIPTORS),
                ("threads", lambda one: one.threads, lambda _: THREADS),
            ]:
                before, after = statistics.median(map(of, first)), statistics.median(map(of, last))
                rows.append((name, span, what, before, after))
                if after > before + allowed(before):
                    self.world.model.fail(f"{name}: {what} grew from {before:.1f} to {after:.1f} between minutes {span}")
        return rows
