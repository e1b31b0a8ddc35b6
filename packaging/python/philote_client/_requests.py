"""What the client asks the server for: tokens, and channels to join, to leave and to follow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Iterable, List, Literal, Optional, Tuple

from ._handlers import Receiver
from ._publishes import encode
from ._types import Access

#: The limit of a request to a server that does not report its ``max_message_size``: its default, in bytes.
DEFAULT_MESSAGE_SIZE = 65_536
#: What a request has besides the names, in bytes.
ENVELOPE = 64

#: The receivers that get the history of their channels with an answer.
Begin = List[Tuple[str, List[Receiver]]]


@dataclass
class Request:
    """A request to join or leave channels, or for presence. Answers come in order, so one is sent at a time."""

    kind: Literal["join", "leave", "presence"]
    frame: str
    names: List[str]
    begin: Begin = field(default_factory=list)
    #: The answers to wait for.
    answers: int = 1
    #: Whether it follows the channels or no longer does.
    follow: bool = False

    @property
    def size(self) -> int:
        return len(self.frame.encode())


@dataclass
class Shown:
    """A token that was sent and has not been answered."""

    token: str = field(repr=False)
    frame: str = field(repr=False)
    begin: Begin

    @property
    def size(self) -> int:
        return len(self.frame.encode())


def allows(patterns: Iterable[str], channel: str) -> bool:
    """Whether one of these names or beginnings matches a channel."""
    return any(channel.startswith(one[:-1]) if one.endswith("*") else channel == one for one in patterns)


def is_reached(place: Optional[str], id: str) -> bool:
    """Whether an id is at or before this position."""
    if place is None:
        return False
    epoch, _, number = id.rpartition("-")
    reached, _, last = place.rpartition("-")
    return epoch == reached and number.isdecimal() and last.isdecimal() and int(number) <= int(last)


class Room:
    """The room for names in a frame."""

    def __init__(self, access: Optional[Access], single: bool) -> None:
        self._left = (access and access.max_message_size or DEFAULT_MESSAGE_SIZE) - ENVELOPE
        self._single = single
        self._count = 0

    def fits(self, channel: str) -> bool:
        # It may be there twice, with an id.
        self._left -= 2 * len(encode(channel).encode()) + ENVELOPE
        self._count += 1
        return self._left >= 0 and not (self._single and self._count > 1)
