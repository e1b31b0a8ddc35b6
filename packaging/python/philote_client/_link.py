"""One connection: its token, its frames in both directions, and its signs of life."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Coroutine, Deque, Dict, List, Optional, Tuple, Union

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from ._pace import Pace, clock
from ._publishes import Publish, encode
from ._requests import Request, Shown
from ._types import Access, ErrorEvent

if TYPE_CHECKING:
    from ._core import Core

#: Limit for ``token()``, for connecting including the first answer, and for the answer to a later token, in seconds.
PATIENCE = 20.0
#: Limit for the answer to a Close, in seconds.
CLOSING = 2.0
#: The part of ``probe`` after which a silent server is probed.
QUIET = 0.6
#: The time to read waiting bytes after a late timer, before a silent server counts as dead, in seconds.
SECOND_LOOK = 0.1
#: The wait before ``token()`` is called again after it failed on an open connection, besides the random one, in seconds.
ASK_AGAIN = 1.0
#: The part of a token's remaining lifetime after which it is replaced: random, because tokens that were signed together
#: expire together.
RENEWAL = (0.7, 0.9)
#: The largest frame that is read, in bytes: twice the largest message that a server can be set to accept.
LARGEST_FRAME = 128 * 1024 * 1024
#: The frames that are read before the client looks at them; then the network waits.
READ_AHEAD = 16
#: The payload of a ping, in bytes.
PING = 4

#: It never logs frames, which contain tokens, whatever level the application sets for all loggers.
_log = logging.getLogger("philote_client.websockets")
_log.setLevel(logging.INFO)


class TokenError(Exception):
    """Why there is no token."""


class Connect(connect):
    """Follows no redirect, as no browser does: the token would go to a server that nobody has named."""

    def process_redirect(self, exc: Exception) -> Union[Exception, str]:
        return exc


class Socket(ClientConnection):
    """Notes when the last byte was read: pings of the server and parts of a large message are signs of life, too."""

    heard = 0.0

    def data_received(self, data: bytes) -> None:
        self.heard = clock()
        super().data_received(data)


async def wait_for(event: asyncio.Event, delay: float) -> None:
    """Waits for an event at most this time."""
    timer = asyncio.get_running_loop().call_later(delay, event.set) if delay < inf else None
    try:
        await event.wait()
    finally:
        event.clear()
        if timer:
            timer.cancel()


class Link:
    """A connection from the first attempt to its end."""

    def __init__(self, client: Core, options: Dict[str, Any]) -> None:
        self._client = client
        self._options = options
        self._verdict: asyncio.Future[Tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._tasks: List[asyncio.Task[None]] = []
        self._socket: Optional[Socket] = None
        self.pace = Pace()
        #: When the first token was accepted.
        self.opened: Optional[float] = None
        #: The token to send next, and those that the server has not answered.
        self.next: Optional[str] = None
        self.shown: Deque[Shown] = deque()
        #: A call of ``token()`` is in progress.
        self.asking = False
        #: A token was being sent when the application requested another.
        self._again = False
        self._renew_at = inf
        self._renewal = asyncio.Event()
        self._more = asyncio.Event()
        self._ping = False

    @property
    def is_settled(self) -> bool:
        """Only the token in force is in use; no other is being requested or sent."""
        return not self.asking and self.next is None and not self.shown

    async def run(self, url: str, token: str) -> Tuple[int, str]:
        """Connects and converses until the connection ends; returns the close code and the reason."""
        deadline = asyncio.get_running_loop().call_later(PATIENCE, self._too_late)
        self._spawn(self._converse(url, token))
        try:
            return await self._verdict
        finally:
            deadline.cancel()
            for task in self._tasks:
                task.cancel()
            if self._socket is not None:
                self._client.spawn(self._shut(self._socket))

    def end(self, code: int, reason: str) -> None:
        """Ends the connection; the first reason wins."""
        if not self._verdict.done():
            self._verdict.set_result((code, reason))

    @property
    def is_over(self) -> bool:
        return self._verdict.done()

    def _spawn(self, what: Coroutine[Any, Any, None]) -> None:
        task = self._client.spawn(what)
        task.add_done_callback(self._failed)
        self._tasks.append(task)

    def _failed(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._client.report("the connection", error)
            self.end(1006, "the client failed")

    def _too_late(self) -> None:
        if self.opened is None:
            self.end(1006, "the connection took too long")

    async def _shut(self, socket: Socket) -> None:
        abort = asyncio.get_running_loop().call_later(CLOSING, socket.transport.abort)
        try:
            await socket.close()
        finally:
            abort.cancel()
            socket.transport.abort()
            await socket.wait_closed()

    async def _converse(self, url: str, token: str) -> None:
        try:
            socket = await Connect(
                url,
                subprotocols=[Subprotocol("philote.v1")],
                open_timeout=None,
                ping_interval=None,
                close_timeout=CLOSING,
                max_size=LARGEST_FRAME,
                max_queue=READ_AHEAD,
                logger=_log,
                create_connection=Socket,
                **self._options,
            )
        except (OSError, WebSocketException, EOFError, ImportError, ValueError) as error:
            return self.end(1006, f"cannot connect: {error}")
        assert isinstance(socket, Socket)
        self._socket = socket
        self.show(token)
        self._spawn(self._write(socket))
        try:
            while not self.is_over:
                text = await socket.recv()
                # While frames wait for a slow application, nothing more is read, and the answer to a probe may be behind them.
                socket.heard = clock()
                self._client.hear(text)
                if self._client.yields:
                    self._client.yields = False
                    await asyncio.sleep(0)
        except ConnectionClosed as closed:
            frame = None if closed.sent and not closed.rcvd_then_sent else closed.rcvd
            lost = "the connection was lost" if self.opened else "cannot connect"
            reason = frame and frame.reason or (closed.sent and closed.sent.reason) or lost
            self.end(frame.code if frame else 1006, reason)

    def accepted(self, access: Access) -> None:
        """The first token was accepted."""
        self.opened = clock()
        assert self._socket is not None
        self._spawn(self._renew())
        if self._client.probe:
            self._spawn(self._watch(self._socket))

    # What is sent.

    def show(self, token: str) -> None:
        self.next = token
        self.flush()

    def flush(self) -> None:
        """Sends what there is to send, as fast as the server allows."""
        self._more.set()

    async def _write(self, socket: Socket) -> None:
        try:
            while True:
                frame, delay = self._choose()
                if delay:
                    await wait_for(self._more, delay)
                elif frame is None:
                    pong = asyncio.ensure_future(await socket.ping())
                    pong.add_done_callback(self._pong)
                else:
                    await socket.send(frame)
        except ConnectionClosed:
            pass  # the reader tells why

    def _choose(self) -> Tuple[Optional[str], float]:
        """The next frame, which then counts as sent, or None for a ping; or how long there is nothing to send.

        First the next token, then a ping, then requests, then the waiting messages.
        """
        client = self._client
        what: Union[None, Shown, Request, Publish] = None
        if self.next is not None:
            what = client.frame(self.next)
        elif self.opened and not self._ping:
            what = (client.channels.next_request() if not self.shown else None) or client.publishes.next()
        if what is None and not self._ping:
            return None, inf
        size = what.size if what else PING
        delay = self.pace.wait(size)
        if delay > 0:
            return None, delay
        self.pace.sent(size)
        if what is None:
            self._ping = False
            return None, 0
        if isinstance(what, Shown):
            self.next = None
            self.shown.append(what)
        elif isinstance(what, Request):
            client.channels.sending(what)
        else:
            client.publishes.send(what)
        return what.frame, 0

    # Signs of life.

    def _pong(self, pong: asyncio.Future[Any]) -> None:
        if not pong.cancelled() and pong.exception() is None:
            self.pace.answered(PING)
            self.flush()

    async def _watch(self, socket: Socket) -> None:
        """Ends the connection when the server was silent for ``probe``, measured by the clock."""
        silence = self._client.probe
        while True:
            left = socket.heard + silence * QUIET - clock()
            if left > 0:
                await asyncio.sleep(left)
                continue
            probed = clock()
            self._ping = True
            self.flush()
            await asyncio.sleep(silence * (1 - QUIET))
            if socket.heard < probed:
                await asyncio.sleep(SECOND_LOOK)
            if socket.heard < probed:
                return self.end(1006, "no answer from the server")
            self._ping = False

    # The token.

    def refresh(self) -> None:
        """The application requests another token."""
        if not self.opened:
            self._again = True
        elif self.asking:
            self._client.ask_again()
        else:
            self.renew_in(0)

    def renew_in(self, delay: float) -> None:
        self._renew_at = clock() + delay
        self._renewal.set()

    def settled(self, access: Access, now: float) -> None:
        """A token was accepted: the next is requested when most of its lifetime is over.

        By the clock of this machine. If it is fast, the close code 4401 causes the request of the next token.
        """
        if self._again:
            self._again = False
            self.renew_in(0)
        elif self.is_settled:
            left = access.expires_at.timestamp() - now if access.expires_at else inf
            self.renew_in(max(1.0, left * random.uniform(*RENEWAL)) if left > 0 else inf)

    async def _renew(self) -> None:
        client = self._client
        while True:
            left = self._renew_at - clock()
            if left > 0:
                await wait_for(self._renewal, left)
                continue
            self.asking = True
            token = await client.ask()
            self.asking = False
            if isinstance(token, str) and len(encode({"auth": token}).encode()) > self.longest_auth:
                token = TokenError(f"no token: the limit on an open connection is {int(self.longest_auth)} bytes")
            if isinstance(token, str):
                self._renew_at = clock() + PATIENCE
                self.show(token)
            else:
                self._renew_at = clock() + ASK_AGAIN + client.next_wait()
                client.tell("error", ErrorEvent("token", str(token)))
                client.channels.attend()

    @property
    def longest_auth(self) -> float:
        """The largest frame with a token, in bytes: a new connection accepts any that the server's limits can need."""
        access = self._client.access
        limit = access.max_message_size if self.opened and access else None
        return max(limit, 2 * len(self._client.token_in_force.encode())) if limit else inf
