"""Philote's HTTP API for backends. It needs httpx: ``pip install 'philote-client[api]'``."""

from __future__ import annotations

import asyncio
import inspect
import json as jsonlib
import random
import ssl as ssllib
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, AsyncGenerator, AsyncIterator, Awaitable, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar, Union
from urllib.parse import quote, urlsplit

import httpx

from ._core import check_token
from ._publishes import encode

__all__ = ["Api", "ApiError", "Channel", "Disconnected", "Event", "Outgoing", "Published"]

#: Limit for connecting, for sending and for each part of an answer, in seconds; in a cluster a server waits 2 s for others.
PATIENCE = 10.0
#: The silence after which a stream of events is opened again, in seconds; the server sends a line every 15 s.
SILENCE = 45.0
#: The longest line of events, in bytes: a server sends far shorter ones.
LONGEST_LINE = 1024 * 1024
#: How often the wait before a stream is opened again doubles at most; more has no effect.
DOUBLINGS = 60
#: The answers after which a stream of events is opened again.
TRANSIENT = (408, 429, 500, 502, 503, 504)


Known = TypeVar("Known")
Query = List[Tuple[str, Union[str, int, float, bool, None]]]


class ApiError(Exception):
    """The server refused a request, with its code (such as ``forbidden``) and sentence."""

    def __init__(self, status: int, code: str, message: str, body: Mapping[str, Any], retry_after: Optional[float]) -> None:
        super().__init__(f"{message} ({status} {code})")
        self.status = status
        self.code = code
        self.message = message
        #: The whole answer; in a cluster ``published`` tells of each message what became of it.
        self.body = body
        #: Seconds after which to try again, if the server tells.
        self.retry_after = retry_after


@dataclass(frozen=True)
class Outgoing:
    """A message to be published."""

    channel: str
    value: Any
    #: The connections that must not receive it.
    exclude: Sequence[str] = ()
    #: In a cluster with a history: a repetition with the same key within two minutes is not published again.
    key: Optional[str] = None


@dataclass(frozen=True)
class Published:
    """A message that was published."""

    channel: str
    #: For how many readers it was queued; ``None`` in a cluster, where no node knows all of them.
    readers: Optional[int]
    #: In a cluster: the readers on this node.
    readers_here: Optional[int] = None
    #: Its position in the channel, if the server keeps a history and tells.
    id: Optional[str] = None
    #: A message with this key was published already.
    repeated: bool = False


@dataclass(frozen=True)
class Channel:
    """A channel and its readers."""

    channel: str
    readers: int
    writers: int
    #: Its present position, if the server keeps a history and tells.
    id: Optional[str] = None
    #: Those who read it, each once; ``None`` without the right ``subjects``.
    subjects: Optional[List[str]] = None


@dataclass(frozen=True)
class Disconnected:
    """The number of connections that were closed, and how long the subject is banned."""

    disconnected: int
    refused_until: Optional[str]


@dataclass(frozen=True)
class Event:
    """What happened: ``opened``, ``closed``, ``occupied``, ``vacated``, ``joined`` or ``left``.

    Also ``alive``, once when the stream begins, and ``missed``, if events were lost: then load the lists of channels and
    subjects anew. There may be other events.
    """

    event: str
    id: Optional[str]
    at: Optional[datetime]
    channel: Optional[str] = None
    subject: Optional[str] = None
    connection: Optional[str] = None
    #: Why a connection was closed.
    code: Optional[int] = None
    reason: Optional[str] = None
    #: All that the server told.
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def read_from(cls, fields: Mapping[str, Any]) -> Event:
        at = fields.get("at")
        return cls(
            event=fields["event"],
            id=fields.get("id"),
            at=datetime.fromisoformat(at.replace("Z", "+00:00")) if at else None,
            channel=fields.get("channel"),
            subject=fields.get("subject"),
            connection=fields.get("connection"),
            code=fields.get("code"),
            reason=fields.get("reason"),
            fields=fields,
        )


class Api:
    """The HTTP API of a server.

    ::

        async with Api("http://localhost:6380", token=lambda: sign(secret, api=True, exp=timedelta(minutes=1))) as api:
            await api.publish("chat", "hello")

    :param url: ``http:`` or ``https:``, or the URL of the WebSocket.
    :param token: a token with the claim ``api``, or a function that returns one, at once or as a coroutine; it is called
        before each request.
    :param json: ``False``: values are texts and are sent unchanged.
    :param backoff: the first and the longest range, in seconds, from which the random wait before a stream of events is
        opened again is taken.
    :param ssl: for ``https:``.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Union[str, Callable[[], Union[str, Awaitable[str]]]],
        json: bool = True,
        backoff: Sequence[float] = (0.5, 30.0),
        ssl: Optional[ssllib.SSLContext] = None,
    ) -> None:
        scheme = urlsplit(url).scheme
        if scheme not in ("http", "https", "ws", "wss"):
            raise ValueError('the URL must begin with http:// or https://, such as "http://localhost:6380"')
        self._url = "http" + url[2 if scheme.startswith("ws") else 4 :].rstrip("/")
        self._token = token
        self._as_json = json
        self._first, self._longest = backoff
        self._http = httpx.AsyncClient(timeout=PATIENCE, verify=ssl if ssl is not None else True)

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def publish(
        self, channel: str, value: Any, *, exclude: Sequence[str] = (), key: Optional[str] = None
    ) -> Published:
        """Publishes a message.

        :param exclude: the connections that must not receive it.
        """
        return (await self.publish_all([Outgoing(channel, value, exclude, key)]))[0]

    async def publish_all(self, messages: Iterable[Outgoing]) -> List[Published]:
        """Publishes messages, in order: all of them, or none if one is wrong."""
        batch = []
        for one in messages:
            data = encode(one.value) if self._as_json else one.value
            message: Dict[str, Any] = {"channel": one.channel, "data": data}
            if one.exclude:
                message["exclude"] = [one.exclude] if isinstance(one.exclude, str) else list(one.exclude)
            if one.key is not None:
                message["key"] = one.key
            batch.append(message)
        answer = await self._request("POST", "/publish", body=batch)
        return [_known(Published, one) for one in answer["published"]]

    async def channels(self, prefix: str = "") -> AsyncIterator[Channel]:
        """The channels that have readers, by name; the server is asked for one page after another."""
        query: Dict[str, Any] = {"limit": 1000, **({"prefix": prefix} if prefix else {})}
        while True:
            page = await self._request("GET", "/channels", query)
            for one in page["channels"]:
                yield _known(Channel, one)
            if page.get("next") is None:
                return
            query["after"] = page["next"]

    async def channel(self, name: str) -> Channel:
        """One channel, with or without readers, and with the right ``subjects`` all subjects that read it."""
        query: Dict[str, Any] = {"limit": 1000}
        subjects: List[str] = []
        while True:
            page = await self._request("GET", "/channels/" + quote(name, safe=""), query)
            subjects += page.get("subjects", [])
            if page.get("next") is None:
                return _known(Channel, {**page, "subjects": subjects if "subjects" in page else None})
            query["after"] = page["next"]

    async def disconnect(
        self,
        *,
        subject: Optional[str] = None,
        connection: Optional[str] = None,
        reconnect: bool = False,
        refuse_for: Optional[str] = None,
    ) -> Disconnected:
        """Closes the connections of a subject, or one connection.

        :param reconnect: ask the clients to connect again.
        :param refuse_for: ban the subject for this long, such as ``"24h"``.
        """
        body = {"subject": subject, "connection": connection, "reconnect": reconnect or None, "refuse_for": refuse_for}
        answer = await self._request("POST", "/disconnect", body={k: v for k, v in body.items() if v is not None})
        return _known(Disconnected, answer)

    async def events(self, channels: Iterable[str] = (), *, last: Optional[str] = None) -> AsyncIterator[Event]:
        """What happens on this server, without an end: connections, and readers of channels.

        It continues by itself after the last event: after a fault of the network, a restart, an expired token, and when the
        application was too slow. ``missed`` tells that events are missing.

        :param channels: names, or with ``*`` at the end the beginnings of names, of which events are told.
        :param last: the id of the last event that was handled, to continue after it.
        :raises ApiError: if the server refuses the stream for a reason that does not go away.
        """
        query: Query = [("channel", one) for one in ([channels] if isinstance(channels, str) else channels)]
        attempt = 0
        while True:
            after = 0.0
            stream = self._stream(query, last)
            try:
                async for fields in stream:
                    attempt = 0
                    is_first, last = last is None, fields.get("id", last)
                    if fields["event"] != "ended" and (fields["event"] != "alive" or is_first):
                        yield Event.read_from(fields)
            except httpx.TransportError:
                pass
            except ApiError as error:
                if error.status not in TRANSIENT:
                    raise
                after = error.retry_after or 0.0
            finally:
                await stream.aclose()
            wait = random.random() * min(self._longest, self._first * 2.0 ** min(attempt, DOUBLINGS))
            attempt += 1
            await asyncio.sleep(max(wait, after))

    async def _stream(self, query: Query, last: Optional[str]) -> AsyncGenerator[Dict[str, Any], None]:
        headers = await self._headers()
        if last is not None:
            headers["Last-Event-ID"] = last
        timeout = httpx.Timeout(PATIENCE, read=SILENCE)
        url = self._url + "/api/events"
        async with self._http.stream("GET", url, params=query, headers=headers, timeout=timeout) as answer:
            if answer.status_code != 200:
                await answer.aread()
                raise _error(answer)
            rest = b""
            async for part in answer.aiter_bytes():
                *lines, rest = (rest + part).split(b"\n")
                if len(rest) > LONGEST_LINE:
                    raise httpx.RemoteProtocolError("a line of events is too long")
                for line in lines:
                    try:
                        fields = jsonlib.loads(line)
                    except (ValueError, RecursionError):
                        raise httpx.RemoteProtocolError("a line of events is not JSON") from None
                    if isinstance(fields, dict) and "event" in fields:
                        yield fields

    async def _headers(self) -> Dict[str, str]:
        given: Any = self._token
        if callable(given):
            given = given()
        return {"Authorization": "Bearer " + check_token(await given if inspect.isawaitable(given) else given)}

    async def _request(
        self, method: str, path: str, query: Optional[Mapping[str, Any]] = None, body: Any = None
    ) -> Dict[str, Any]:
        content = None if body is None else encode(body)
        headers = await self._headers()
        answer = await self._http.request(method, f"{self._url}/api{path}", params=query, content=content, headers=headers)
        if answer.status_code != 200:
            raise _error(answer)
        found: Dict[str, Any] = answer.json()
        return found


def _known(kind: Type[Known], fields: Mapping[str, Any]) -> Known:
    """Servers may tell more than this version knows."""
    return kind(**{name: value for name, value in fields.items() if name in kind.__annotations__})


def _error(answer: httpx.Response) -> ApiError:
    try:
        body = answer.json()
    except ValueError:
        body = None  # of a proxy
    body = body if isinstance(body, dict) else {}
    after = answer.headers.get("Retry-After", "")
    return ApiError(
        answer.status_code,
        str(body.get("error", "http")),
        str(body.get("message", answer.reason_phrase)),
        body,
        float(after) if after.isdecimal() else None,
    )
