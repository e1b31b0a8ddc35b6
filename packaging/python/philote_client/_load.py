"""Handlers that follow a state of the application's backend, which is loaded first."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Awaitable, Callable, Dict, Iterator, List, Literal, Optional, Tuple, Union

from ._handlers import Handler, Host, Receiver
from ._requests import is_reached
from ._types import Message, PhiloteError

#: Fetches a state, and returns the id of the channel at which it was read.
Load = Callable[[], Union[Optional[str], Awaitable[Optional[str]]]]

#: Limit for ``load()``, in seconds.
PATIENCE = 20.0
#: The messages that a handler may miss while ``load()`` runs, and their length in characters; with more, it is called again.
HELD = 1000
HELD_LENGTH = 4 * 1024 * 1024


class Loading(Receiver):
    """A handler that follows a state: it gets the messages after the id at which the state was read.

    ``wait`` returns the seconds before an attempt, ``failed`` reports why one failed, and ``loaded`` is called when there is an
    id to join with.
    """

    def __init__(
        self,
        host: Host,
        load: Load,
        handler: Handler,
        wait: Callable[[int], float],
        failed: Callable[[str], None],
        loaded: Callable[[], None],
    ) -> None:
        self._host, self._load, self._handler = host, load, handler
        self._wait, self._failed, self._loaded = wait, failed, loaded
        #: Without a call of ``load`` or a state, in a call, before the next call, with a state, or following it.
        self._phase: Literal["idle", "calls", "waits", "loaded", "follows"] = "idle"
        #: The id of the state.
        self._id: object = None
        #: The channel is read, and all messages after ``base`` arrive; without a history it has no id.
        self._is_read = False
        self._base: Optional[str] = None
        #: The channel was read already when the last call began, so that its state cannot be too old.
        self._is_fresh = False
        #: The messages that arrived during the call, and the length of their texts.
        self._held: List[Tuple[Any, Message]] = []
        self._length = 0
        self._attempt = 0
        self._task: Optional[asyncio.Task[None]] = None
        self._timer: Optional[asyncio.TimerHandle] = None

    @property
    def since(self) -> Optional[str]:
        """The id with which the channel can be joined."""
        return self._id if self._phase == "loaded" and isinstance(self._id, str) else None

    @property
    def is_awaited(self) -> bool:
        """The channel need not be joined yet, because there is no state."""
        return not self._is_read and self._phase in ("calls", "waits")

    def start(self) -> None:
        self._stop()
        self._phase = "calls"
        self._is_fresh = self._is_read
        self._task = self._host.spawn(self._call())
        self._later(PATIENCE, lambda: self._fail(f"load() did not answer within {PATIENCE:g} s"))

    async def _call(self) -> None:
        try:
            given = self._load()
            id = await given if inspect.isawaitable(given) else given
        except Exception as error:
            return self._fail(f"load() failed: {str(error) or type(error).__name__}")
        self._cancel_timer()
        self._task = None
        self._phase = "loaded"
        self._id = id
        if self._is_read:
            self._follow()
        else:
            self._loaded()

    def offer(self, *item: Any) -> None:
        """A message of the channel."""
        value, message = item
        if self._phase == "follows":
            # Skipped messages are known after the last one.
            self._base = message.id
            if message.id is None or not is_reached(str(self._id), message.id):
                self._handler.offer(value, message)
            return
        if self._phase == "calls":
            self._held.append((value, message))
            self._length += len(message.data or "")
            if len(self._held) <= HELD and self._length <= HELD_LENGTH:
                return
            self._fail("too many messages arrived before load() answered")
        self._base = message.id

    def enter(self, base: Optional[str], is_gapless: bool = False) -> None:
        """The channel is read: all messages after ``base`` arrive.

        ``is_gapless``: no message is missing since it was read before.
        """
        if is_gapless and self._is_read:
            return
        self._is_read = True
        self._is_fresh = False
        self._drop()
        self._base = base
        if self._phase == "loaded":
            self._follow()
        elif self._phase != "calls":
            self.start()

    def leave(self) -> None:
        """The channel is not read any more."""
        self._is_read = False
        if self._phase == "follows":
            self._phase = "idle"

    def again(self) -> None:
        """The handler has skipped messages, and can get more."""
        if self._phase == "follows":
            self.start()

    def end(self) -> None:
        self._stop()
        self._phase = "idle"
        self._handler.end()

    def close(self, error: Optional[PhiloteError]) -> None:
        self._stop()

    def _stop(self) -> None:
        self._cancel_timer()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._task = None

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _later(self, delay: float, what: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(delay, what)

    def _drop(self) -> None:
        if self._held:
            self._base = self._held[-1][1].id
        self._held = []
        self._length = 0

    def _fail(self, why: str) -> None:
        self._stop()
        self._phase = "waits"
        self._drop()
        self._later(self._wait(self._attempt), self.start)
        self._attempt += 1
        self._failed(why)

    def _follow(self) -> None:
        """Follows the state, if all messages after it arrive or are held."""
        id, base = self._id, self._base
        follows = self._is_fresh if base is None else isinstance(id, str) and is_reached(id, base)
        if follows:
            self._phase = "follows"
            self._attempt = 0
            held = self._held
            self._drop()
            for item in held:
                self.offer(*item)
        elif self._is_fresh:
            what = f"the id {id}" if isinstance(id, str) else "no id"
            self._fail(
                f"load() returned {what}, and messages are known after {base}: "
                "it must be the id at which the state was read, and an id of this channel"
            )
        else:
            self.start()


class Loads:
    """The handlers whose state is loaded, by channel."""

    def __init__(self) -> None:
        self._loads: Dict[str, Dict[Loading, None]] = {}

    def add(self, channel: str, loading: Loading) -> None:
        self._loads.setdefault(channel, {})[loading] = None

    def remove(self, channel: str, loading: Loading) -> None:
        loads = self._loads.get(channel, {})
        loads.pop(loading, None)
        if not loads:
            self._loads.pop(channel, None)

    def of(self, channel: str) -> List[Loading]:
        return list(self._loads.get(channel, ()))

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._loads))

    def id(self, channel: str) -> Optional[str]:
        """The id after which a channel that was not read follows the states that are loaded: the oldest of them."""
        ids = [one.since for one in self.of(channel) if one.since is not None]
        return next((id for id in ids if all(is_reached(other, id) for other in ids)), ids[0] if ids else None)

    def awaited(self, channel: str) -> int:
        """How many handlers of a channel have no state yet."""
        return sum(one.is_awaited for one in self.of(channel))

    def enter(self, channel: str, base: Optional[str], is_gapless: bool) -> None:
        for loading in self.of(channel):
            loading.enter(base, is_gapless)

    def leave(self, channel: str) -> None:
        for loading in self.of(channel):
            loading.leave()
