"""The server's rates, which the client respects."""

from __future__ import annotations

import time
from math import inf
from typing import List, Optional

#: Seconds of a monotonic clock.
clock = time.monotonic

#: The burst that the server allows, in seconds of its rate.
BURST = 1.0
#: The pause after ``rate_limited``, in seconds: a little longer than the time after which the server forgets it.
PAUSE = 1.2


class Pace:
    """Counts as the server does, but from the answers.

    An answered message was counted before, so no delay on the network can make the messages exceed the rate.
    """

    def __init__(self) -> None:
        #: Messages and bytes a second; 0 is no limit.
        self._rates: List[float] = [0.0, 0.0]
        #: The time until which the answered messages use up the rate.
        self._paid = [0.0, 0.0]
        #: Sent and not answered.
        self._owed = [0, 0]
        self._paused_until = 0.0

    def set(self, messages: Optional[float], size: Optional[float]) -> None:
        self._rates = [messages or 0.0, size or 0.0]

    def pause(self) -> None:
        self._paused_until = clock() + PAUSE

    def wait(self, size: int) -> float:
        """Seconds until this number of bytes may be sent; ``inf`` is until an answer arrives."""
        now = clock()
        wait = self._paused_until - now
        for kind, rate in enumerate(self._rates):
            if not rate:
                continue
            each = BURST / rate
            ahead = self._paid[kind] - now
            owed = self._owed[kind] * each
            cost = (size if kind else 1) * each
            # One message is reserved for a pong.
            room = BURST if kind or rate < 2 else BURST - each
            if owed and owed + cost > room:
                return inf
            # After a pause the server accepts one message of any size.
            wait = max(wait, min(ahead, max(ahead, 0.0) + owed + cost - room))
        return max(wait, 0.0)

    def sent(self, size: int) -> None:
        self._owed[0] += 1
        self._owed[1] += size

    def answered(self, size: int, limited: bool = False) -> None:
        """Counts an answer; a message that was rejected for the rate does not count."""
        for kind, amount in enumerate((1, size)):
            self._owed[kind] -= amount
            rate = self._rates[kind]
            if rate and not limited:
                self._paid[kind] = max(self._paid[kind], clock()) + amount * BURST / rate
