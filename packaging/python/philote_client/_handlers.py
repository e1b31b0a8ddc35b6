"""The application's handlers and iterations, each with a bounded backlog of its own."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from typing import Any, Callable, Coroutine, Deque, Dict, List, Optional, Tuple

from ._types import Message, PhiloteError

#: The text in the backlog of one handler or iteration, in characters: a few of the largest messages. One always fits.
BACKLOG_SIZE = 64 * 1024 * 1024

Call = Callable[..., Any]


def weigh(item: Tuple[Any, ...]) -> int:
    """The size of what is told, in characters; only messages have one."""
    message = item[-1]
    return len(message.data or "") if isinstance(message, Message) else 0


class Backlog:
    """What waits for its consumer: at most ``limit`` items, of at most BACKLOG_SIZE."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: Deque[Tuple[Any, ...]] = deque()
        self._size = 0

    def put(self, item: Tuple[Any, ...]) -> bool:
        """Whether there was room."""
        size = weigh(item)
        if len(self._items) >= self._limit or (self._items and self._size + size > BACKLOG_SIZE):
            return False
        self._items.append(item)
        self._size += size
        return True

    def take(self) -> Tuple[Any, ...]:
        item = self._items.popleft()
        self._size -= weigh(item)
        return item

    def clear(self) -> None:
        self._items.clear()
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._items)


class Receiver:
    """What is called for a channel or an event."""

    def offer(self, *item: Any) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """It was removed."""
        raise NotImplementedError

    def close(self, error: Optional[PhiloteError]) -> None:
        """The client is closed: by the application, or because of this error."""


class Host:
    """What a handler needs of its client."""

    #: Something waits for a task of the application: the client lets the tasks run before it reads on.
    yields = False

    def spawn(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task of the client."""
        raise NotImplementedError

    def track(self, task: asyncio.Future[Any]) -> None:
        """Counts a task as one of the client's."""
        raise NotImplementedError

    def report(self, what: str, error: BaseException) -> None:
        """Reports an exception of the application."""
        raise NotImplementedError


class Handler(Receiver):
    """Calls a function for one item at a time, in order.

    A function that returns is called directly. While an awaitable of the last call is not done, items wait. What finds no
    room is skipped until all waiting items are done, and then ``gap`` is called with the skipped items' channels.
    """

    def __init__(self, host: Host, what: str, call: Call, limit: int, gap: Callable[[List[str]], None]) -> None:
        self._host = host
        self._what = what
        self._call = call
        self._backlog = Backlog(limit)
        self._gap = gap
        self._task: Optional[asyncio.Future[Any]] = None
        self._skipped: Optional[Dict[str, None]] = None
        self._ended = False

    def offer(self, *item: Any) -> None:
        if self._task is None:
            self._begin(item)
            return
        self._host.yields = True
        if self._skipped is not None or not self._backlog.put(item):
            self._skipped = self._skipped or {}
            if isinstance(item[-1], Message):
                self._skipped[item[-1].channel] = None

    def end(self) -> None:
        self._ended = True
        self._backlog.clear()

    def close(self, error: Optional[PhiloteError]) -> None:
        """It still gets what waits for it."""

    def _begin(self, item: Tuple[Any, ...]) -> None:
        try:
            result = self._call(*item)
            if inspect.isawaitable(result):
                self._wait_for(asyncio.ensure_future(result))
        except Exception as error:
            self._host.report(self._what, error)

    def _wait_for(self, task: asyncio.Future[Any]) -> None:
        self._task = task
        self._host.track(task)
        task.add_done_callback(self._done)

    async def _drain(self) -> None:
        """What waits is handled by one task: one each would fall behind in a burst."""
        while self._backlog:
            try:
                result = self._call(*self._backlog.take())
                if inspect.isawaitable(result):
                    await result
            except Exception as error:
                self._host.report(self._what, error)

    def _done(self, task: asyncio.Future[Any]) -> None:
        self._task = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._host.report(self._what, error)
        if self._backlog:
            self._wait_for(self._host.spawn(self._drain()))
        elif self._skipped is not None and not self._ended:
            skipped, self._skipped = self._skipped, None
            self._gap(list(skipped))


class Inbox(Receiver):
    """What waits for an iteration. If it finds no room, the iteration fails after what waits."""

    def __init__(self, host: Host, channel: str, limit: int) -> None:
        self._host = host
        self._channel = channel
        self._limit = limit
        self._backlog = Backlog(limit)
        self._waiting: List[asyncio.Future[None]] = []
        self._over = False
        self._error: Optional[PhiloteError] = None

    def offer(self, *item: Any) -> None:
        if self._over:
            return
        if not self._backlog.put(item):
            sentence = f'the iteration over channel "{self._channel}" fell behind by more than {self._limit} messages'
            self.close(PhiloteError("too_slow", sentence))
        self._host.yields = True
        self._wake()

    def end(self) -> None:
        self.close(None)

    def close(self, error: Optional[PhiloteError]) -> None:
        if not self._over:
            self._over = True
            self._error = error
            self._wake()

    async def next(self) -> Message:
        while not self._backlog:
            if self._over:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            # What is taken after this wait cannot be lost by a cancellation.
            await waiter
        message: Message = self._backlog.take()[-1]
        return message

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()


class Messages:
    """The messages of a channel from now on: ``async for message in client.messages("chat")``.

    It ends when the client is closed by the application, and raises PhiloteError with the code ``closed`` if the server
    closed it, or ``too_slow`` after the messages that it has if it falls behind by more than ``backlog``.
    """

    def __init__(self, inbox: Inbox, remove: Callable[[], None]) -> None:
        self._inbox = inbox
        self._remove = remove

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> Message:
        return await self._inbox.next()

    def close(self) -> None:
        """Ends the iteration; forgetting the object does the same."""
        self._inbox.end()
        self._remove()

    __del__ = close


class Registry:
    """Receivers by name, in the order in which they were added."""

    def __init__(self) -> None:
        self._receivers: Dict[str, Dict[Receiver, None]] = {}

    def add(self, name: str, receiver: Receiver) -> Callable[[], bool]:
        """Returns a function that removes the receiver, and tells whether it was there."""
        receivers = self._receivers.setdefault(name, {})
        receivers[receiver] = None

        def remove() -> bool:
            if receiver not in receivers:
                return False
            del receivers[receiver]
            receiver.end()
            if not receivers and self._receivers.get(name) is receivers:
                del self._receivers[name]
            return True

        return remove

    def emit(self, name: str, item: Tuple[Any, ...], fits: Callable[[Receiver], bool] = lambda _: True) -> None:
        receivers = self._receivers.get(name, {})
        for receiver in list(receivers):
            if receiver in receivers and fits(receiver):
                receiver.offer(*item)

    def get(self, name: str) -> List[Receiver]:
        return list(self._receivers.get(name, ()))

    def drop(self, name: str) -> None:
        """Removes all receivers of a name."""
        for receiver in self._receivers.pop(name, {}):
            receiver.end()

    def clear(self) -> None:
        for name in self.names():
            self.drop(name)

    def close(self, error: Optional[PhiloteError]) -> None:
        for name in self.names():
            for receiver in self.get(name):
                receiver.close(error)

    def names(self) -> List[str]:
        return list(self._receivers)

    def __contains__(self, name: str) -> bool:
        return name in self._receivers
