"""What the client reports: messages, states, events and errors."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Awaitable, Callable, Dict, List, Literal, Mapping, Optional, Union

__all__ = ["Access", "ErrorEvent", "May", "Message", "PhiloteError", "Presence", "Recovered", "State", "Token"]

#: Returns a token, at once or later.
Token = Callable[[], Union[str, Awaitable[str]]]


class PhiloteError(Exception):
    """Why a call failed.

    ``code`` is the server's ``forbidden`` or ``bad_message``, or ``message_too_big`` (larger than the server's
    ``max_message_size``; it was not sent), ``queue_full``, ``unanswered`` (the connection ended before the answer; the
    message may or may not have been delivered), ``too_slow`` (an iteration fell behind by more than ``backlog``),
    ``left`` or ``closed``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Message:
    """A message as it arrived."""

    channel: str
    #: The value that was published; the text itself if it is not JSON, or with ``json=False``.
    value: Any
    #: The text that was sent; ``None`` if the message has no data.
    data: Optional[str]
    #: The id of the publisher's connection.
    issuer: str
    #: The subject of the publisher's token.
    subject: Optional[str] = None
    #: The position of the message in the channel, if the server keeps a history.
    id: Optional[str] = None


@dataclass(frozen=True)
class May:
    """Names of channels, or with ``*`` at the end the beginnings of names."""

    read: List[str]
    write: List[str]


@dataclass(frozen=True)
class Access:
    """What the token in force allows."""

    connection: str
    read: List[str]
    write: List[str]
    subject: Optional[str] = None
    #: Channels that may be joined, and others that may be written.
    may: Optional[May] = None
    #: ``None`` for a token that never expires.
    expires_at: Optional[datetime] = None
    #: The largest frame in bytes that the server accepts. Servers that do not report it omit the rates, too.
    max_message_size: Optional[int] = None
    #: What this connection may send in a second; ``None`` if there is no limit. The client respects it.
    messages_per_second: Optional[int] = None
    bytes_per_second: Optional[int] = None

    @classmethod
    def read_from(cls, frame: Mapping[str, Any]) -> Access:
        may, expires = frame.get("may"), frame.get("expires_at")
        return cls(
            connection=frame["connection"],
            read=list(frame["read"]),
            write=list(frame["write"]),
            subject=frame.get("subject"),
            may=May(list(may.get("read") or []), list(may.get("write") or [])) if may else None,
            expires_at=datetime.fromisoformat(expires.replace("Z", "+00:00")) if expires else None,
            max_message_size=frame.get("max_message_size"),
            messages_per_second=frame.get("messages_per_second"),
            bytes_per_second=frame.get("bytes_per_second"),
        )


@dataclass(frozen=True)
class State:
    """The state of the connection; ``waiting`` reconnects, ``closed`` does not."""

    state: Literal["connecting", "open", "waiting", "closed"]
    #: Why the last connection ended: the close code and the server's sentence.
    code: Optional[int] = None
    reason: Optional[str] = None
    #: The time until the next attempt, in seconds.
    retry_in: Optional[float] = None


@dataclass(frozen=True)
class Recovered:
    """Whether a channel has missed nothing: after a reconnection, or because a handler was too slow."""

    channel: str
    recovered: bool


@dataclass(frozen=True)
class ErrorEvent:
    """A rejection by the server, a token or a state that could not be obtained (``token``, ``load``), a handler that fell
    behind (``too_slow``), or a handler of a channel that the token does not read."""

    error: str
    message: str
    channel: Optional[str] = None


@dataclass(frozen=True)
class Presence:
    """Who reads a channel."""

    channel: str
    #: The subjects, each with what its token says about it in ``info``; ``None`` if there are too many to be told.
    subjects: Optional[Dict[str, Any]]
    #: The subjects that joined and left since the handler was called last; both are empty when all are told anew.
    joined: List[str]
    left: List[str]
    #: The number of subjects, and of connections that have none.
    count: int
    anonymous: int
