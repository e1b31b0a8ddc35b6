"""Keeps one connection open: states, tokens, and what the server's frames mean."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import re
import time
from typing import Any, Callable, Coroutine, Dict, List, Mapping, Optional, Set, Tuple, Union

from ._channels import Channels
from ._handlers import Handler, Host, Receiver, Registry
from ._link import ASK_AGAIN, PATIENCE, Link, TokenError
from ._pace import clock
from ._publishes import Publish, Publishes
from ._requests import Shown
from ._types import Access, ErrorEvent, Message, PhiloteError, Recovered, State, Token

#: A connection that lasted this long, in seconds, resets the wait before the next attempt.
STEADY = 5.0
#: How often the wait has doubled, at least, after the server was full, draining, or sent too much.
AFTER_OVERLOAD = 3
#: How often the wait doubles at most; more has no effect.
DOUBLINGS = 60
#: Limit for handlers that still run when the client is closed, in seconds; then they are cancelled.
FINISHING = 2.0


def check_token(given: object) -> str:
    """The result of ``token()`` without ``Bearer`` and white space."""
    if not isinstance(given, str):
        raise TokenError(f"token() returned {'None' if given is None else type(given).__name__}, not a str")
    token = re.sub(r"^Bearer(\s+|$)", "", given.strip().strip("\ufeff").strip(), flags=re.IGNORECASE)
    if not token:
        raise TokenError("token() returned an empty string")
    return token


def not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def decode(text: str) -> Any:
    """Strict JSON: Python would also accept NaN and Infinity."""
    return json.loads(text, parse_constant=not_json)


class Core(Host):
    """What the parts of the client share."""

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        as_json: bool,
        history: bool,
        queue: int,
        backlog: int,
        backoff: Tuple[float, float],
        probe: float,
        connect: Dict[str, Any],
    ) -> None:
        self._url = url
        self._token = token
        self._as_json = as_json
        self.backlog = backlog
        self._backoff = backoff
        self.probe = probe
        self._connect = connect
        self.state = State("connecting")
        self.access: Optional[Access] = None
        #: The token that the server accepted last.
        self.token_in_force = ""
        self.events = Registry()
        self.channels = Channels(self, history)
        self._registries = (self.channels.handlers, self.channels.follows.watchers, self.events)
        self.publishes = Publishes(queue, as_json)
        self._attempt = 0
        self._link: Optional[Link] = None
        self._running: Optional[asyncio.Task[None]] = None
        self._tasks: Set[asyncio.Future[Any]] = set()
        self._question: Optional[asyncio.Task[None]] = None
        self._asks_again = False
        self._closing: List[asyncio.Future[None]] = []

    # Tasks, and what is told to the application.

    def spawn(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(what)
        self.track(task)
        return task

    def track(self, task: asyncio.Future[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def report(self, what: str, error: BaseException) -> None:
        """An exception must neither end the connection nor be hidden."""
        context = {"message": f"philote_client: an exception in {what}", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)

    def later(self, what: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(what)

    def tell(self, event: str, detail: Any) -> None:
        self.events.emit(event, (detail,))

    def handler(self, what: str, call: Callable[..., Any], again: Callable[[], None] = lambda: None) -> Handler:
        """A handler; ``again`` is called when it has skipped something, and can get more."""

        def gap(skipped: List[str]) -> None:
            sentence = f"{what} fell behind by more than {self.backlog}, and skipped what came then"
            self.tell("error", ErrorEvent("too_slow", sentence, skipped[0] if len(skipped) == 1 else None))
            for channel in skipped:
                self.tell("recovered", Recovered(channel, False))
            again()

        return Handler(self, what, call, self.backlog, gap)

    # The life of the client.

    @property
    def is_open(self) -> bool:
        return self.state.state == "open"

    @property
    def is_closed(self) -> bool:
        return self.state.state == "closed"

    @property
    def is_running(self) -> bool:
        return self._running is not None and not self.is_closed

    @property
    def is_settled(self) -> bool:
        return self.is_open and self._link is not None and self._link.is_settled

    def start(self) -> None:
        if self._running is not None:
            raise RuntimeError("a client is started once: create another one")
        self._running = self.spawn(self._run())
        self.channels.start()

    async def _run(self) -> None:
        try:
            while not self.is_closed:
                retry_in = await self._attempt_once()
                if retry_in is not None:
                    await asyncio.sleep(retry_in)
        except Exception as error:
            self.report("the client itself", error)
            self.end(1011, "the client failed")

    async def _attempt_once(self) -> Optional[float]:
        """One connection; returns the wait before the next one."""
        self._become(State("connecting"))
        token = await self.ask()
        if isinstance(token, TokenError):
            self.tell("error", ErrorEvent("token", str(token)))
            code, reason = 0, str(token)
        else:
            link = self._link = Link(self, self._connect)
            code, reason = await link.run(self._url, token)
            if self.is_closed:
                return None
            if code == 4403:
                self.end(code, reason)
                return None
            self._lost(link, code, reason)
        if self.is_closed:
            return None
        retry_in = self.next_wait()
        self._become(State("waiting", code, reason, retry_in))
        return retry_in

    def _become(self, state: State) -> None:
        self.state = state
        self.tell("state", state)

    def next_wait(self) -> float:
        self._attempt += 1
        return self.wait(self._attempt - 1)

    def wait(self, attempt: int) -> float:
        """Random in the whole range ("full jitter"), so that clients that were cut together do not reconnect together."""
        first, longest = self._backoff
        return random.random() * min(longest, first * 2.0 ** min(attempt, DOUBLINGS))

    def _lost(self, link: Link, code: int, reason: str) -> None:
        if link.opened is None:
            # The list of ids may have been too large; the next connection omits it.
            self.channels.bare = self.channels.bare or code == 1009
        elif clock() - link.opened >= STEADY:
            self._attempt = 0
        # The server is full, draining, or was sent too much; a moment is too short.
        if code in (1013, 4429):
            self._attempt = max(self._attempt, AFTER_OVERLOAD)
        self._link = None
        tells_limit = self.access is not None and self.access.max_message_size is not None
        self.publishes.lost(code, reason, tells_limit)
        self.channels.cut()

    def end(self, code: int, reason: str) -> None:
        """Closes the client permanently."""
        if self.is_closed:
            return
        link, self._link = self._link, None
        if link is not None:
            link.end(code, reason)
        elif self._running is not None:
            self._running.cancel()
        error = PhiloteError("closed", reason)
        self.publishes.close(error)
        self.channels.close(error)
        self._become(State("closed", code, reason))
        for registry in self._registries:
            registry.close(None if code == 1000 else error)
        for waiter in self._closing:
            if not waiter.done():
                waiter.set_result(None)

    async def closed(self) -> None:
        """Waits until the client is closed."""
        if not self.is_closed:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._closing.append(waiter)
            await waiter

    async def finish(self) -> None:
        """Waits until all tasks have ended, and cancels those that take too long."""
        if self._question is not None:
            self._question.cancel()
        deadline = clock() + FINISHING
        try:
            while self._others() and clock() < deadline:
                await asyncio.wait(self._others(), timeout=deadline - clock(), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for registry in self._registries:
                registry.clear()
            tasks = self._others()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _others(self) -> Set[asyncio.Future[Any]]:
        """The tasks besides this one, which may be that of a handler."""
        return self._tasks - {asyncio.current_task()}

    # Tokens.

    async def ask(self) -> Union[str, TokenError]:
        """Calls ``token()``; a newer call takes the place of one in progress."""
        answer: List[Union[str, TokenError]] = []
        while not answer:
            self._asks_again = False
            self._question = self.spawn(self._call_token(answer))
            try:
                done, _ = await asyncio.wait({self._question}, timeout=PATIENCE)
            finally:
                self._question.cancel()
            if not done:
                return TokenError(f"no token: token() did not answer within {PATIENCE:g} s")
            if not answer and not self._asks_again:
                return TokenError("no token: token() was cancelled")
        return answer[0]

    def ask_again(self) -> None:
        if self._question is not None:
            self._asks_again = True
            self._question.cancel()

    async def _call_token(self, answer: List[Union[str, TokenError]]) -> None:
        # The token is not the result of the task, because asyncio logs the results of slow tasks in its debug mode.
        try:
            given = self._token()
            answer.append(check_token(await given if inspect.isawaitable(given) else given))
        except Exception as error:
            answer.append(TokenError(f"no token: {str(error) or type(error).__name__}"))

    def refresh(self) -> None:
        if self._link is not None:
            self._link.refresh()
        else:
            self.ask_again()

    def frame(self, token: str) -> Shown:
        assert self._link is not None
        before = self.access if self._link.opened is None else None
        return self.channels.frame(token, before, self._link.longest_auth)

    def show_again(self) -> None:
        if self._link is not None:
            self._link.show(self.token_in_force)

    # Frames.

    def flush(self) -> None:
        if self._link is not None:
            self._link.flush()

    def answered(self, size: int, limited: bool) -> None:
        if self._link is not None:
            self._link.pace.answered(size, limited)

    def hear(self, text: Union[str, bytes]) -> None:
        try:
            frame = decode(text) if isinstance(text, str) else None
        except (ValueError, RecursionError):
            frame = None
        if not isinstance(frame, dict):
            return self.tell("error", ErrorEvent("bad_message", "the server sent a frame that is not a JSON object"))
        try:
            self._take(frame)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            self.report("a frame of the server", error)

    def _take(self, frame: Mapping[str, Any]) -> None:
        if "access" in frame:
            self._enter(frame["access"])
        elif "presence" in frame:
            self.channels.present(frame["presence"])
        elif "joined" in frame:
            self.channels.entered(frame["joined"])
        elif "left" in frame:
            self.channels.parted(frame["left"])
        elif "error" in frame:
            self._refused(frame)
        elif "channel" in frame:
            self._deliver(frame)
        else:
            publish = self._settle(frame.get("ack"))
            if publish:
                if frame.get("id"):
                    self.channels.published(publish.channel, frame["id"])
                publish.resolve(frame.get("readers"))
                self.flush()

    def _settle(self, ack: Any, limited: bool = False) -> Optional[Publish]:
        publish = self.publishes.answered(ack)
        if publish:
            self.answered(publish.size, limited)
        return publish

    def _deliver(self, frame: Mapping[str, Any]) -> None:
        data = frame.get("data")
        value = data
        if self._as_json and data is not None:
            try:
                value = decode(data)
            except (ValueError, RecursionError):
                pass  # text of a client that sends no JSON
        message = Message(frame["channel"], value, data, frame["issuer"], frame.get("subject"), frame.get("id"))
        is_new = self.channels.accept(message)
        if is_new and self.channels.is_own(message):
            return
        if is_new:
            self.tell("message", message)
        self.channels.deliver(message, is_new)

    def _refused(self, frame: Mapping[str, Any]) -> None:
        error = ErrorEvent(frame["error"], frame.get("message", ""), frame.get("channel"))
        ack, link = frame.get("ack"), self._link
        limited = error.error == "rate_limited"
        if link is None:
            return
        if limited:
            link.pace.pause()
            if frame.get("messages_per_second") or frame.get("bytes_per_second"):
                link.pace.set(frame.get("messages_per_second"), frame.get("bytes_per_second"))
        if self.channels.asked and ack is None and error.error != "unauthorized":
            # A request is sent only when no token is on its way, so this is its answer.
            self.channels.denied(error, limited)
            return self.flush()
        if error.error == "unauthorized" or (limited and ack is None):
            self._refused_token(link, limited)
        else:
            publish = self._settle(ack, limited)
            if publish and limited:
                self.publishes.put_back([publish])
            elif publish:
                publish.reject(PhiloteError(error.error, error.message))
        if not limited:
            self.tell("error", error)
        self.flush()

    def _refused_token(self, link: Link, limited: bool) -> None:
        if not link.shown:
            return
        shown = link.shown.popleft()
        link.pace.answered(shown.size, limited)
        if not link.is_settled:
            return
        if limited:
            link.next = shown.token
        else:
            # The token that should have replaced this one was rejected; another may be accepted.
            link.renew_in(ASK_AGAIN + self.next_wait())

    def _enter(self, frame: Mapping[str, Any]) -> None:
        """A token was accepted."""
        link = self._link
        if link is None:
            return
        before, access = self.access, Access.read_from(frame)
        shown = link.shown.popleft() if link.shown else None
        if shown:
            link.pace.answered(shown.size)
            self.token_in_force = shown.token
        self.access = access
        link.pace.set(access.messages_per_second, access.bytes_per_second)
        is_first = link.opened is None
        missed = self.channels.renewed(before, access, shown.begin if shown else [], frame, not is_first)
        if is_first:
            link.accepted(access)
            missed.update(self.channels.opened(before, frame.get("recovered") or {}))
            self._become(State("open"))
        link.settled(access, time.time())
        self.tell("access", access)
        for channel, recovered in missed.items():
            self.tell("recovered", Recovered(channel, recovered))
        # Any of these handlers may have closed the client.
        if self._link is link:
            self.publishes.refuse_too_big(self.publishes.waiting.values(), access.max_message_size)
            self.channels.attend()
            self.flush()
