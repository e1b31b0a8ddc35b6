"""What was published, and what each reader must have got. Has no input or output, so that tests can drive it.

With a history each message has a position, which is its epoch and number. The order of a channel is learned from the
answers to publishers and from what readers get. A reader covers a part of this order, from a position that the server
named. The audit finds what a reader should have got there and did not, or got although it should not.
"""

import bisect
from collections import Counter, deque

# How old a delivery is before it is audited, in seconds: by then the answers to all publishers have arrived.
SETTLED = 10
# A message that a connected reader has not got after this long, in seconds, counts as lost. The machine may be busy.
LATE = 45
# The largest data of a message, and what a frame has beside it, in bytes.
LARGEST, OVERHEAD = 4000, 250
# The violations that are kept in words; the others are counted.
KEPT_VIOLATIONS = 50


def filler(key, size):
    """The data of a message, which a reader can check without keeping it."""
    return f"{key} " + "x" * size


class Message:
    """One message and what became of it."""

    __slots__ = (
        *("key", "channel", "size", "connection", "subject", "exclude", "sent"),
        *("acked", "state", "epoch", "number", "known", "retried"),
    )

    def __init__(self, key, channel, size, connection, subject, exclude, sent):
        self.key, self.channel, self.size = key, channel, size
        self.connection, self.subject, self.exclude, self.sent = connection, subject, exclude, sent
        self.acked = self.epoch = self.number = self.known = None
        # sent, acked, refused (never to be delivered) or unknown (it may have been published or not)
        self.state, self.retried = "sent", False

    def __str__(self):
        return f"{self.key} on {self.channel} ({self.state}, {self.epoch}-{self.number})"


class Channel:
    """The order of a channel's messages, by epoch."""

    def __init__(self, name):
        self.name, self.epochs, self.highest_acked = name, {}, None
        # How far the order of each publisher is judged, and the last sequence number of each.
        self.ordered, self.sequences = {}, {}

    def between(self, epoch, low, high):
        """The known messages after `low` and before `high`."""
        numbers, messages = self.epochs.get(epoch, ((), {}))
        for at in range(bisect.bisect_right(numbers, low), bisect.bisect_left(numbers, high)):
            yield messages[numbers[at]]


class Stretch:
    """What a reader reads of a channel on one connection without leaving it."""

    __slots__ = ("connection", "server_id", "joined", "replayed")

    def __init__(self, connection, server_id, joined, replayed):
        self.connection, self.server_id, self.joined, self.replayed = connection, server_id, joined, replayed

    def due(self, message):
        """Whether a message must be delivered; None if it may be."""
        if message.connection != self.connection and self.server_id not in message.exclude:
            return True
        # The history also gives what this connection published or was excluded from before it joined.
        return None if self.replayed and message.sent <= self.joined else False


class Coverage:
    """A part of a channel's order that a reader gets without a gap, over one or more connections."""

    __slots__ = ("reader", "channel", "epoch", "began", "stretch", "last", "cursor", "events", "live")

    def __init__(self, reader, channel, position, began, stretch):
        self.reader, self.channel, self.began, self.stretch = reader, channel, began, stretch
        self.epoch, self.last = position or (None, None)
        # Everything up to `cursor` is audited; later are the events (time, number, stretch, whether it was delivered).
        self.cursor, self.events, self.live = self.last, deque(), True

    def __str__(self):
        return f"{self.reader.name} on {self.channel.name} after {self.epoch}-{self.cursor}"


class Model:
    """All messages and coverages, and the violations found."""

    def __init__(self, clock):
        self.clock = clock
        self.channels, self.messages, self.unplaced = {}, {}, {}
        self.coverages, self.ending = {}, []
        self.violations, self.counts = [], Counter()
        # Lateness counts from here, the end of the last fault that holds messages back; None during one.
        self.calm_since = clock()
        self.issuers = {}

    def fail(self, text):
        self.counts["violations"] += 1
        if len(self.violations) < KEPT_VIOLATIONS:
            self.violations.append((self.clock(), text))

    def channel(self, name):
        return self.channels.setdefault(name, Channel(name))

    # What publishers do.

    def publish(self, key, channel, size, connection=None, subject=None, exclude=()):
        message = Message(key, channel, size, connection, subject, frozenset(exclude), self.clock())
        self.messages[key] = message
        self.counts["messages"] += 1
        return message

    def acked(self, message, position=None):
        message.state, message.acked = "acked", self.clock()
        self.counts["acked"] += 1
        if position:
            self.place(message, *position)
        if message.epoch is None:
            self.unplaced[message.key] = message
            return
        channel = self.channel(message.channel)
        highest = channel.highest_acked
        if highest is None or highest[0] != message.epoch or highest[1] < message.number:
            channel.highest_acked = (message.epoch, message.number)

    def refused(self, message):
        message.state = "refused"
        self.counts["refused"] += 1
        if message.epoch is not None:
            self.fail(f"a message that was refused was delivered: {message}")

    def unknown(self, message):
        if message.state == "sent":
            message.state = "unknown"
            self.counts["unknown"] += 1

    def place(self, message, epoch, number):
        """Notes the position of a message. Returns whether it is its only one, and that of no other message."""
        if message.epoch is not None:
            if (message.epoch, message.number) == (epoch, number):
                return True
            self.fail(f"message {message} was published twice: it is also at {epoch}-{number}")
            return False
        numbers, messages = self.channel(message.channel).epochs.setdefault(epoch, ([], {}))
        if number in messages:
            self.fail(f"one position has two messages: {message.key} and {messages[number]}")
            return False
        if message.state == "refused":
            self.fail(f"a message that was refused was delivered: {message}")
        message.epoch, message.number, message.known = epoch, number, self.clock()
        bisect.insort(numbers, number)
        messages[number] = message
        self.unplaced.pop(message.key, None)
        return True

    def floor(self, names):
        """The highest acknowledged positions: one node has queued what it has acknowledged."""
        return {name: self.channel(name).highest_acked for name in names}

    # What readers do. A reader has a name, and `attentive_since`: None while it does not read.

    def begin(self, reader, name, position, connection, server_id, replayed=False):
        """A reader reads a channel after a position, or from now on if it was told none. With `replayed` it gets the history
        first."""
        self.end(reader, name)
        now = self.clock()
        stretch = Stretch(connection, server_id, now, replayed)
        self.coverages[reader.name, name] = Coverage(reader, self.channel(name), position, now, stretch)

    def resume(self, reader, name, position, connection, server_id):
        """A reader goes on after a position, which belongs to its coverage if it has one of this epoch."""
        now = self.clock()
        stretch = Stretch(connection, server_id, now, True)
        self.counts["recovered"] += 1
        coverage = self.coverages.get((reader.name, name))
        if coverage and coverage.epoch == position[0]:
            coverage.events.append((now, position[1], coverage.stretch, False))
            coverage.last, coverage.stretch, coverage.live = position[1], stretch, True
            return
        self.end(reader, name)
        self.coverages[reader.name, name] = Coverage(reader, self.channel(name), position, now, stretch)

    def suspend(self, reader, name, floor=None):
        """A reader stopped reading a channel. With `floor`, everything up to this position must have arrived."""
        coverage = self.coverages.get((reader.name, name))
        if coverage and coverage.live:
            coverage.live = False
            if floor and floor[0] == coverage.epoch:
                coverage.events.append((self.clock(), floor[1], coverage.stretch, False))
                self.counts["floors"] += 1
        return coverage

    def end(self, reader, name, floor=None):
        """A reader does not go on; the rest of its coverage is still audited."""
        coverage = self.suspend(reader, name, floor)
        if coverage:
            self.ending.append(self.coverages.pop((reader.name, name)))

    def deliver(self, reader, frame, connection):
        """A reader got a message."""
        self.counts["deliveries"] += 1
        name = frame["channel"]
        coverage = self.coverages.get((reader.name, name))
        if coverage is None or not coverage.live:
            return self.fail(f"{reader.name} got a message on {name}, which it does not read: {frame['id']}")
        key = frame["data"].split(" ", 1)[0]
        message = self.messages.get(key)
        if message is None or message.channel != name or frame["data"] != filler(key, message.size):
            return self.fail(f"{reader.name} got a message that nobody published: {frame}")
        if frame.get("subject") != message.subject:
            self.fail(f"{message} has the wrong subject: {frame}")
        # All messages of one connection have one issuer. What backends publish has the issuer of a node.
        if message.connection and self.issuers.setdefault(message.connection, frame["issuer"]) != frame["issuer"]:
            self.fail(f"{message} has the wrong issuer: {frame}")
        epoch, number = position_of(frame["id"])
        if not self.place(message, epoch, number):
            return
        if coverage.epoch is None:
            coverage.epoch = epoch
        if epoch != coverage.epoch:
            self.fail(f"{coverage}: the epoch changed without an announcement: {frame['id']}")
            return self.begin(reader, name, (epoch, number), connection, coverage.stretch.server_id)
        if coverage.last is not None and number <= coverage.last:
            return self.fail(f"{coverage}: {message} arrived twice or out of order, after {coverage.last}")
        coverage.last = number
        coverage.events.append((self.clock(), number, coverage.stretch, True))

    def must_recover(self, since, told, limits):
        """Whether the history has all messages after these positions, so that it must give them. `told` are the answered
        positions. Half of each limit is safe."""
        missed = size = 0
        for name, (epoch, number, learned, opened) in since.items():
            known = list(self.channel(name).between(epoch, number, float("inf")))
            # The numbers of a single node have no holes, and nobody may have read the last messages yet.
            unseen = max(0, told[name] - number - len(known)) if limits["dense"] and name in told else 0
            missed += len(known) + unseen
            size += sum(message.size + OVERHEAD for message in known) + unseen * (LARGEST + OVERHEAD)
            if len(known) + unseen > limits["messages"] / 2 or self.clock() - learned > limits["ttl"] / 2:
                return False
            if opened < limits["started"]:
                return False
        return missed < limits["queue_messages"] / 4 and size < limits["queue_bytes"] / 4

    # The audit.

    def audit(self, last=False):
        """Judges what is old enough, or at the end everything."""
        before = self.clock() if last else self.clock() - SETTLED
        for coverage in [*self.coverages.values(), *self.ending]:
            while coverage.events and coverage.events[0][0] <= before:
                self.judge(coverage, *coverage.events.popleft()[1:])
        self.ending = [coverage for coverage in self.ending if coverage.events]
        if self.calm_since is not None:
            for coverage in list(self.coverages.values()):
                self.judge_lateness(coverage, last)
            self.judge_unplaced()
        for channel in self.channels.values():
            self.judge_order(channel, before)

    def judge(self, coverage, number, stretch, delivered):
        """Judges a coverage from its cursor to a number."""
        low = -1 if coverage.cursor is None else coverage.cursor
        for message in coverage.channel.between(coverage.epoch, low, number + (not delivered)):
            if stretch.due(message) and (coverage.cursor is not None or message.sent > coverage.began):
                self.counts["lost"] += 1
                self.fail(f"{coverage}: lost {message}; the next one is {number}")
        if delivered and stretch.due(coverage.channel.epochs[coverage.epoch][1][number]) is False:
            self.fail(f"{coverage}: got {coverage.channel.name} {number}, which it published itself or was excluded from")
        coverage.cursor = number if coverage.cursor is None else max(coverage.cursor, number)

    def judge_lateness(self, coverage, last):
        attentive = coverage.reader.attentive_since
        if not coverage.live or attentive is None or coverage.epoch is None:
            return
        calm = max(self.calm_since, attentive, coverage.stretch.joined)
        patience = LATE if not last else SETTLED
        low = -1 if coverage.last is None else coverage.last
        for message in coverage.channel.between(coverage.epoch, low, float("inf")):
            if coverage.last is None and message.sent <= coverage.began:
                continue
            if coverage.stretch.due(message) and max(message.known, calm) < self.clock() - patience:
                self.counts["lost"] += 1
                self.fail(f"{coverage}: {message} did not arrive within {patience} s")
                return self.end(coverage.reader, coverage.channel.name)

    def judge_unplaced(self):
        """Judges acknowledged messages that nobody has got."""
        now = self.clock()
        for message in list(self.unplaced.values()):
            if max(message.acked, self.calm_since) > now - LATE:
                continue
            del self.unplaced[message.key]
            for coverage in self.coverages.values():
                attentive = coverage.reader.attentive_since
                due = coverage.live and coverage.channel.name == message.channel and coverage.began < message.sent
                calm = attentive is not None and max(attentive, coverage.stretch.joined) < now - LATE
                if due and calm and coverage.stretch.due(message):
                    self.counts["lost"] += 1
                    self.fail(f"{coverage}: {message} was acknowledged and did not arrive")
                    break
            else:
                self.counts["unseen"] += 1

    def judge_order(self, channel, before):
        """Judges whether the messages of each publisher are in the order in which it sent them."""
        for epoch, (numbers, messages) in channel.epochs.items():
            at = bisect.bisect_right(numbers, channel.ordered.get(epoch, -1))
            for number in numbers[at:]:
                message = messages[number]
                if message.known > before:
                    break
                label, sequence = message.key.rsplit("/", 1)
                if not message.retried:
                    if channel.sequences.get((epoch, label), -1) >= int(sequence):
                        self.fail(f"{message} is behind a later message of its publisher")
                    channel.sequences[epoch, label] = int(sequence)
                channel.ordered[epoch] = number


def position_of(text):
    """The epoch and number of a message's id."""
    epoch, number = text.rsplit("-", 1)
    return epoch, int(number)
