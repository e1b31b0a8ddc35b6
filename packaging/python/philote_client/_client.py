"""What an application calls."""

from __future__ import annotations

import asyncio
import re
import ssl as ssllib
from types import TracebackType
from typing import Any, Callable, Dict, Literal, Optional, Tuple, Type, overload
from urllib.parse import urlsplit

from ._core import Core
from ._handlers import Handler, Inbox, Messages, Receiver
from ._load import Load, Loading
from ._publishes import Readers, ignore
from ._types import Access, ErrorEvent, Message, PhiloteError, Presence, Recovered, State, Token

#: Removes a handler.
Remove = Callable[[], None]

EVENTS = ("state", "access", "recovered", "message", "error")


def address(url: str) -> str:
    """The URL of a WebSocket. The error does not quote the URL, which may contain a token."""
    if not isinstance(url, str):
        raise TypeError("the URL must be a str")
    try:
        parts = urlsplit(url.strip())
        complete = bool(parts.scheme and (parts.hostname or not parts.netloc) and parts.port != 0)
    except ValueError:
        complete = False
        parts = None
    if parts is None or not complete:
        raise ValueError('invalid URL: give the complete URL, such as "wss://chat.example.org/"')
    if parts.scheme not in ("ws", "wss", "http", "https"):
        raise ValueError(f'the URL must begin with ws:// or wss://, not "{parts.scheme}:"')
    if not parts.hostname:
        raise ValueError('invalid URL: give the complete URL, such as "wss://chat.example.org/"')
    if "#" in url:
        raise ValueError("the URL of a WebSocket must not have a fragment (#...)")
    return re.sub("^http", "ws", url.strip(), flags=re.IGNORECASE)


class Philote:
    """One connection to a Philote server, kept open until the client is closed or the server forbids to reconnect.

    ::

        async with Philote("wss://chat.example.org/", token=get_token) as client:
            async for message in client.messages("chat"):
                print(message.subject, message.value)

    Everything is called in one event loop; no thread is started. Handlers are functions, or coroutine functions, which are
    called for one item at a time, in order.

    :param url: ``ws:`` or ``wss:``; ``http:`` and ``https:`` are converted to these.
    :param token: returns a token within 20 s, at once or as a coroutine; called before each connection and before the token
        in force expires.
    :param json: ``False``: values are texts and are sent unchanged.
    :param history: ``True``: each new handler or iteration first gets all messages that the server keeps of the channel.
    :param queue: how many publishes may wait for their answer, sent or not.
    :param backlog: how many messages may wait for a coroutine handler or an iteration.
    :param backoff: the first and the longest range, in seconds, from which the random wait before a reconnection is taken.
    :param probe: the silence in seconds after which the server counts as dead; it is probed after three fifths of this
        time. With 0 it is not probed.
    :param ssl: for ``wss:``, such as ``ssl.create_default_context(cafile=...)``.
    :raises ValueError: for a URL or an option that cannot work.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token,
        json: bool = True,
        history: bool = False,
        queue: int = 1000,
        backlog: int = 4096,
        backoff: Tuple[float, float] = (0.5, 30.0),
        probe: float = 15.0,
        ssl: Optional[ssllib.SSLContext] = None,
    ) -> None:
        place = address(url)
        if not callable(token):
            raise TypeError("the option token must be a function that returns a token")
        if len(backoff) != 2 or not all(number >= 0 for number in (queue, probe, *backoff)) or backlog < 1:
            raise ValueError("queue and probe must be numbers and backoff two numbers, none below 0, and backlog at least 1")
        connect: Dict[str, Any] = {"ssl": ssl} if ssl is not None else {}
        self._core = Core(
            place,
            token,
            as_json=json,
            history=history,
            queue=queue,
            backlog=backlog,
            backoff=backoff,
            probe=probe,
            connect=connect,
        )

    async def __aenter__(self) -> Philote:
        """Starts to connect; handlers can be added before the first connection."""
        self._core.start()
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        """Closes the client. Handlers that run get 2 s to end, and are then cancelled."""
        self.close()
        await self._core.finish()

    def close(self) -> None:
        """Closes the connection permanently."""
        self._core.end(1000, "closed by the application")

    async def wait_closed(self) -> State:
        """Waits until the client is closed, by ``close`` or by the server; returns why."""
        await self._core.closed()
        return self._core.state

    @property
    def state(self) -> State:
        return self._core.state

    @property
    def access(self) -> Optional[Access]:
        """What the token in force allows; ``None`` before the first connection."""
        return self._core.access

    def on(self, channel: str, handler: Callable[[Any, Message], Any], *, load: Optional[Load] = None) -> Remove:
        """Calls a handler with the value and the message for each message of a channel that the token reads.

        A channel that it only allows to join is joined, and left with its last handler. For another channel an ``error``
        follows the next ``access``. Returns a function that removes the handler.

        :param load: fetches the state that the handler's messages change, and returns the id of the channel at which it was
            read. It is called before the channel is joined, and again whenever messages may be missing. The handler then
            gets each message after this id once, in order. Where the server keeps no history, the result is not used.
        """
        core = self._core

        def again() -> None:
            if loading is not None:
                loading.again()

        receiver = core.handler(f'the handler of channel "{channel}"', handler, again)
        loading = load and Loading(
            core,
            load,
            receiver,
            core.wait,
            lambda why: core.tell("error", ErrorEvent("load", why, channel)),
            core.channels.attend,
        )
        return self._add(channel, loading or receiver)

    def messages(self, channel: str) -> Messages:
        """The messages of a channel from now on, for ``async for``; otherwise like ``on``."""
        inbox = Inbox(self._core, channel, self._core.backlog)
        messages = Messages(inbox, self._add(channel, inbox))
        if self._core.is_closed:
            inbox.close(PhiloteError("closed", "the client is closed"))
        return messages

    def _add(self, channel: str, receiver: Receiver) -> Remove:
        channels = self._core.channels
        remove = channels.handlers.add(channel, receiver)
        channels.add(channel, receiver)

        def end() -> None:
            if remove():
                channels.removed(channel, receiver)

        return end

    @overload
    def when(self, event: Literal["state"], handler: Callable[[State], Any]) -> Remove: ...
    @overload
    def when(self, event: Literal["access"], handler: Callable[[Access], Any]) -> Remove: ...
    @overload
    def when(self, event: Literal["recovered"], handler: Callable[[Recovered], Any]) -> Remove: ...
    @overload
    def when(self, event: Literal["message"], handler: Callable[[Message], Any]) -> Remove: ...
    @overload
    def when(self, event: Literal["error"], handler: Callable[[ErrorEvent], Any]) -> Remove: ...

    def when(self, event: str, handler: Callable[[Any], Any]) -> Remove:
        """Calls a handler for each event of the connection. Returns a function that removes the handler."""
        if event not in EVENTS:
            raise ValueError(f"the events are {', '.join(EVENTS)}")
        remove = self._core.events.add(event, self._core.handler(f'the handler of the event "{event}"', handler))

        def end() -> None:
            remove()

        return end

    def publish(self, channel: str, value: Any) -> asyncio.Future[Readers]:
        """Publishes a value; messages are sent in the order of the calls.

        While there is no connection, or the server's rate is reached, it waits in a queue. The result is the number of readers
        for which it was queued, or ``None`` in a cluster, where no node knows all readers. If the connection ends before the
        answer, it is not sent again, unless the close code shows that it was not accepted (4429, 1009): only the application
        knows whether twice is better than never. Whoever cancels the future before the message is sent takes it back. An
        exception that is not awaited is ignored.

        :raises PhiloteError: when awaited.
        """
        core = self._core
        answer: asyncio.Future[Readers] = asyncio.get_running_loop().create_future()
        if core.is_closed:
            answer.add_done_callback(ignore)
            answer.set_exception(PhiloteError("closed", "the client is closed"))
            return answer
        publish = core.publishes.add(channel, value, answer)
        if publish and core.is_open and core.access:
            core.publishes.refuse_too_big([publish], core.access.max_message_size)
        core.flush()
        return answer

    def join(self, channel: str) -> asyncio.Future[None]:
        """Joins a channel that the token allows to join; its messages go to the handlers of ``message`` and ``on``.

        It stays joined, also after a reconnection, until ``leave``. The result is there when it is joined.

        :raises PhiloteError: when awaited: with the code ``forbidden`` if it may not be joined.
        """
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._core.is_closed:
            answer.add_done_callback(ignore)
            answer.set_exception(PhiloteError("closed", "the client is closed"))
        else:
            self._core.channels.join(channel, answer)
        return answer

    def leave(self, channel: str) -> None:
        """Leaves a channel that was joined; it stays joined as long as it has handlers."""
        self._core.channels.leave(channel)

    def presence(self, channel: str, handler: Callable[[Presence], Any]) -> Remove:
        """Calls a handler with those who read a channel, at first and whenever somebody joins or leaves.

        The token must have the claim ``presence``, and the channel is joined if it must be. Returns a function that removes
        the handler.
        """
        core = self._core
        follows = core.channels.follows
        receiver: Handler = core.handler(
            f'the handler of presence in channel "{channel}"', handler, lambda: follows.known(channel, receiver)
        )
        remove = follows.watchers.add(channel, receiver)
        core.channels.wants(channel)
        core.later(lambda: follows.known(channel, receiver))

        def end() -> None:
            if remove():
                core.channels.attend_later()

        return end

    def refresh(self) -> None:
        """Calls ``token()`` and sends the result on the open connection.

        Channels that it no longer names are left, new ones are joined, and others are not affected. Of several calls only
        the newest counts.
        """
        self._core.refresh()
