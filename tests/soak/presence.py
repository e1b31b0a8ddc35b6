"""Who is in which room, and what followers of its presence were told."""

from collections import Counter

# How long a follower may be behind, in seconds.
LATE = 30


class Presence:
    """The subjects of each channel, on all nodes, and the views of the followers."""

    def __init__(self, model, grace):
        self.model, self.grace = model, grace
        # How many connections of a subject read a channel, who that makes, and when each subject came or left last.
        self.counts, self.there, self.changed = Counter(), {}, {}
        # The followers, and since when what they believe differs.
        self.followers, self.doubts = set(), {}

    def enter(self, client, name):
        self.change(client, name, 1)

    def leave(self, client, name):
        self.change(client, name, -1)
        self.followers.discard((client, name))

    def change(self, client, name, by):
        place = name, client.subject
        before = self.counts[place]
        self.counts[place] += by
        if bool(before) != bool(self.counts[place]):
            self.changed[place] = self.model.clock()
            subjects = self.there.setdefault(name, set())
            subjects.add(client.subject) if self.counts[place] else subjects.discard(client.subject)

    def told(self, client, told):
        """A follower got the subjects of a channel, or how they changed."""
        name, view = told["channel"], client.views.get(told["channel"])
        if "subjects" in told:
            view = set(told["subjects"])
            # Without following this is the answer that ends it.
            if name in client.views:
                client.views[name] = view
                self.followers.add((client, name))
        elif name not in client.views:
            return self.followers.discard((client, name))
        elif view is None:
            return self.model.fail(f"{client.name} was told a change of {name} before its subjects: {told}")
        else:
            joined, left = set(told.get("joined", ())), set(told.get("left", ()))
            if joined & view or left - view:
                self.model.fail(f"{client.name} knows {sorted(view)} in {name}, which does not fit to the change {told}")
            view |= joined
            view -= left
        self.model.counts["presence"] += 1
        if told["count"] != len(view):
            self.model.fail(f"{client.name} was told that {told['count']} subjects are in {name}, and knows {sorted(view)}")

    def audit(self):
        """Judges whether followers believe for long what is not so. Nodes that do not hear each other know only their own
        readers, so nothing is judged before the last fault is long over."""
        now, doubts = self.model.clock(), {}
        for client, name in self.followers:
            view = client.views.get(name)
            if view is None or client.attentive_since is None or self.model.calm_since is None:
                continue
            there = self.there.get(name, set())
            for subject in view ^ there:
                since = self.doubts.get((client, name, subject), now)
                doubts[client, name, subject] = max(since, self.changed.get((name, subject), since) + self.grace)
        for (client, name, subject), since in list(doubts.items()):
            if max(since, self.model.calm_since) < now - LATE:
                not_so = "not " * (subject not in client.views[name])
                self.model.fail(f"{client.name} believes for over {LATE} s that {subject} is {not_so}in {name}")
                self.followers.discard((client, name))
        self.doubts = doubts
