"""The models themselves: they must notice each kind of fault, and nothing where there is none."""

import unittest

from model import LATE, SETTLED, Model, filler
from presence import Presence

LIMITS = {"messages": 300, "ttl": 180, "queue_messages": 2000, "queue_bytes": 1 << 18, "dense": True, "started": 0}


class Run(unittest.TestCase):
    """One reader of one channel, and a publisher on connection 1."""

    def setUp(self):
        self.time = 1000.0
        self.model = Model(lambda: self.time)
        self.reader = Someone("r")
        self.model.begin(self.reader, "c", ("E", 0), 2, "reader's id")

    def publish(self, number, connection=1, acked=True, exclude=(), sequence=None):
        key = f"p{connection}/{sequence or number}"
        message = self.model.publish(key, "c", 10, connection, "alice", exclude)
        if acked:
            self.model.acked(message, ("E", number))
        return message

    def deliver(self, message, number, **changed):
        issuer = f"issuer of {message.connection}"
        frame = {"issuer": issuer, "channel": "c", "data": filler(message.key, 10), "subject": "alice", "id": f"E-{number}"}
        self.model.deliver(self.reader, frame | changed, 2)

    def judge(self, expected=None):
        """Lets everything become old, and expects one violation with this text, or none."""
        self.time += LATE + SETTLED + 1
        self.model.audit()
        self.model.audit(last=True)
        texts = [text for _, text in self.model.violations]
        if expected is None:
            self.assertEqual(texts, [])
        else:
            self.assertTrue(texts and expected in texts[0], texts)

    def test_all_in_order(self):
        for number in range(1, 5):
            self.deliver(self.publish(number), number)
        self.judge()

    def test_a_lost_one(self):
        messages = [self.publish(number) for number in (1, 2, 3)]
        self.deliver(messages[0], 1)
        self.deliver(messages[2], 3)
        self.judge("lost p1/2 on c")

    def test_the_last_one_lost(self):
        self.deliver(self.publish(1), 1)
        self.publish(2)
        self.judge("did not arrive within")

    def test_one_that_a_stopped_reader_has_not_read_yet(self):
        self.publish(1)
        self.reader.attentive_since = None
        self.judge()

    def test_one_that_only_the_publisher_knows(self):
        self.time += 1
        message = self.publish(1, acked=False)
        self.model.acked(message)
        self.judge("was acknowledged and did not arrive")

    def test_twice(self):
        message = self.publish(1)
        self.deliver(message, 1)
        self.deliver(message, 1)
        self.judge("arrived twice or out of order")

    def test_swapped(self):
        first, second = self.publish(1), self.publish(2)
        self.deliver(second, 2)
        self.deliver(first, 1)
        self.judge("arrived twice or out of order")

    def test_published_twice(self):
        message = self.publish(1)
        self.deliver(message, 1)
        self.deliver(message, 2)
        self.judge("was published twice")

    def test_two_at_one_place(self):
        self.deliver(self.publish(1), 1)
        self.deliver(self.publish(2, acked=False), 1)
        self.judge("one position has two messages")

    def test_publisher_out_of_order(self):
        self.deliver(self.publish(1, sequence=2), 1)
        self.deliver(self.publish(2, sequence=1), 2)
        self.judge("is behind a later message of its publisher")

    def test_its_own(self):
        self.deliver(self.publish(1, connection=2), 1)
        self.judge("which it published itself")

    def test_excluded(self):
        self.deliver(self.publish(1, exclude=["reader's id"]), 1)
        self.judge("was excluded from")

    def test_its_own_is_not_missed(self):
        self.publish(1, connection=2)
        self.deliver(self.publish(2), 2)
        self.judge()

    def test_refused_and_delivered(self):
        message = self.publish(1, acked=False)
        self.model.refused(message)
        self.deliver(message, 1)
        self.judge("refused was delivered")

    def test_changed_data(self):
        self.deliver(self.publish(1), 1, data="p1/1 y")
        self.judge("that nobody published")

    def test_wrong_subject_and_issuer(self):
        self.deliver(self.publish(1), 1)
        self.deliver(self.publish(2), 2, subject="mallory")
        self.judge("wrong subject")
        self.deliver(self.publish(3), 3, issuer="another")
        self.assertIn("wrong issuer", self.model.violations[-1][1])

    def test_another_epoch(self):
        self.deliver(self.publish(1), 1)
        self.deliver(self.publish(2, acked=False), 1, id="F-1")
        self.judge("the epoch changed")

    def test_after_leaving(self):
        self.model.suspend(self.reader, "c")
        self.deliver(self.publish(1), 1)
        self.judge("which it does not read")

    def test_resumed_with_its_own_of_before(self):
        self.deliver(self.publish(1), 1)
        self.model.suspend(self.reader, "c")
        own = self.publish(2, connection=2)
        self.model.resume(self.reader, "c", ("E", 1), 3, "another id")
        self.deliver(own, 2)
        self.judge()

    def test_resumed_with_a_gap(self):
        self.deliver(self.publish(1), 1)
        self.model.suspend(self.reader, "c")
        self.publish(2)
        self.model.resume(self.reader, "c", ("E", 1), 3, "another id")
        self.deliver(self.publish(3), 3)
        self.judge("lost p1/2 on c")

    def test_resumed_from_its_own_message_after_a_gap(self):
        self.publish(1)
        self.publish(2, connection=2)
        self.model.suspend(self.reader, "c")
        self.model.resume(self.reader, "c", ("E", 2), 3, "another id")
        self.judge("lost p1/1 on c")

    def test_left_before_what_was_acknowledged(self):
        self.publish(1)
        self.model.suspend(self.reader, "c", self.model.floor(["c"])["c"])
        self.judge("lost p1/1 on c")

    def test_a_classic_client_that_was_told_no_position(self):
        self.publish(1)
        self.time += 1
        self.model.begin(self.reader, "c", None, 2, "unknown")
        self.time += 1
        self.publish(2)
        self.deliver(self.publish(3), 3)
        self.judge("lost p1/2 on c")
        self.assertEqual(self.model.counts["lost"], 1)

    def test_recovered_is_false_without_a_reason(self):
        for number in range(1, 4):
            self.publish(number)
        since = {"c": ("E", 1, self.time, self.time)}
        self.assertTrue(self.model.must_recover(since, {"c": 3}, LIMITS))
        self.assertFalse(self.model.must_recover(since, {"c": 300}, LIMITS), "too many missed")
        self.assertFalse(self.model.must_recover(since, {"c": 3}, LIMITS | {"started": self.time + 1}), "a restart")
        self.time += LIMITS["ttl"]
        self.assertFalse(self.model.must_recover(since, {"c": 3}, LIMITS), "too old")


class Someone:
    """What the model uses of a client."""

    def __init__(self, name):
        self.name = self.subject = name
        self.attentive_since, self.views = 0.0, {"c": None}


class Following(unittest.TestCase):
    """A follower of one channel, in which alice has been for long."""

    def setUp(self):
        self.time = 1000.0
        self.model = Model(lambda: self.time)
        self.presence = Presence(self.model, grace=2)
        self.follower, self.alice, self.bob = Someone("follower"), Someone("alice"), Someone("bob")
        for one in (self.follower, self.alice):
            self.presence.enter(one, "c")
        self.tell(subjects={"follower": 1, "alice": 1}, count=2)

    def tell(self, **told):
        self.presence.told(self.follower, {"channel": "c", **told})

    def judge(self, expected=None):
        for _ in range(100):
            self.time += 1
            self.presence.audit()
        texts = [text for _, text in self.model.violations]
        self.assertTrue(expected in texts[0] if expected and texts else expected is None and not texts, texts)

    def test_all_that_changes(self):
        self.presence.enter(self.bob, "c")
        self.tell(joined=["bob"], count=3)
        self.presence.leave(self.bob, "c")
        self.tell(left=["bob"], count=2)
        self.judge()

    def test_one_who_came_and_was_not_told(self):
        self.presence.enter(self.bob, "c")
        self.judge("that bob is not in c")

    def test_one_who_left_and_was_not_told(self):
        self.presence.leave(self.alice, "c")
        self.judge("that alice is in c")

    def test_one_who_comes_twice(self):
        self.tell(joined=["alice"], count=2)
        self.judge("does not fit to the change")

    def test_a_wrong_count(self):
        self.presence.enter(self.bob, "c")
        self.tell(joined=["bob"], count=2)
        self.judge("was told that 2 subjects are in c")


if __name__ == "__main__":
    unittest.main()
