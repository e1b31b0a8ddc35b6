"""The messages that wait to be published, and those that the server has not answered."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Optional

from ._types import PhiloteError

#: The number of readers; ``None`` in a cluster, where no node knows all of them.
Readers = Optional[int]


def encode(frame: Any) -> str:
    """JSON as JavaScript writes it: short, and not escaped."""
    return json.dumps(frame, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def ignore(future: asyncio.Future[Any]) -> None:
    """An exception that the application ignores is not reported by asyncio."""
    if not future.cancelled():
        future.exception()


@dataclass
class Publish:
    ack: int
    channel: str
    frame: str
    #: The size of the frame in UTF-8.
    size: int
    answer: asyncio.Future[Readers] = field(repr=False)
    #: It was sent on a connection that a too large message ended.
    again: bool = False

    def resolve(self, readers: Readers) -> None:
        if not self.answer.done():
            self.answer.set_result(readers)

    def reject(self, error: PhiloteError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Publishes:
    """Up to ``limit`` messages without an answer, in order."""

    def __init__(self, limit: int, as_json: bool) -> None:
        self._limit = limit
        self._as_json = as_json
        self._acks = 0
        self.waiting: Dict[int, Publish] = {}
        self.sent: Dict[int, Publish] = {}

    def add(self, channel: str, value: Any, answer: asyncio.Future[Readers]) -> Optional[Publish]:
        """Queues a message; without room, or for a value that cannot be sent, the answer is the exception."""
        answer.add_done_callback(ignore)
        try:
            data = encode(value) if self._as_json else value
            if not isinstance(data, str):
                raise TypeError("with json=False it must be a str")
            if len(self.waiting) + len(self.sent) >= self._limit:
                raise PhiloteError("queue_full", f"{self._limit} messages are already waiting")
            ack = self._acks + 1
            frame = encode({"channel": channel, "data": data, "ack": str(ack)})
            publish = Publish(ack, channel, frame, len(frame.encode()), answer)
        except PhiloteError as error:
            answer.set_exception(error)
            return None
        except (TypeError, ValueError, RecursionError) as error:
            # RecursionError has no useful sentence, and UnicodeEncodeError quotes the value.
            reason = error if type(error) in (TypeError, ValueError) else type(error).__name__
            answer.set_exception(PhiloteError("bad_message", f"this value cannot be sent as text: {reason}"))
            return None
        self._acks = ack
        self.waiting[ack] = publish
        # The application gave it up, for instance because of a time limit.
        answer.add_done_callback(lambda future: future.cancelled() and self.waiting.pop(ack, None))
        return publish

    def next(self) -> Optional[Publish]:
        return next(iter(self.waiting.values()), None)

    def send(self, publish: Publish) -> None:
        self.sent[publish.ack] = self.waiting.pop(publish.ack)

    def answered(self, ack: Any) -> Optional[Publish]:
        """The publish that an answer is for; without an ack it is the oldest."""
        if ack is None:
            ack = next(iter(self.sent), None)
        try:
            return self.sent.pop(int(ack), None)
        except (TypeError, ValueError):
            return None

    def put_back(self, publishes: Iterable[Publish]) -> None:
        """Puts sent messages that were certainly not published back into the queue."""
        both = {**self.waiting, **{one.ack: one for one in publishes if not one.answer.done()}}
        self.waiting = dict(sorted(both.items()))

    def refuse_too_big(self, publishes: Iterable[Publish], limit: Optional[int]) -> None:
        for one in list(publishes):
            if limit is None or one.size <= limit:
                continue
            self.waiting.pop(one.ack, None)
            sentence = f"this message has {one.size} bytes, and the server's max_message_size is {limit}"
            one.reject(PhiloteError("message_too_big", sentence))

    def lost(self, code: int, reason: str, tells_limit: bool) -> None:
        """The connection ended.

        With 4429 and 1009 the server has answered everything that it accepted, so the rest can be sent again. A message
        that was too large is sent only once more, and only if the server reports the limit, by which this client finds it.
        """
        unheard = [one for one in self.sent.values() if code == 4429 or (code == 1009 and tells_limit and not one.again)]
        for one in unheard:
            one.again = one.again or code == 1009
            del self.sent[one.ack]
        self.put_back(unheard)
        self.fail_sent(PhiloteError("unanswered", f"{reason}: the message may or may not have been delivered"))

    def fail_sent(self, error: PhiloteError) -> None:
        sent, self.sent = self.sent, {}
        for one in sent.values():
            one.reject(error)

    def close(self, error: PhiloteError) -> None:
        self.fail_sent(error)
        waiting, self.waiting = self.waiting, {}
        for one in waiting.values():
            one.reject(error)
