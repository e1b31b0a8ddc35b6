"""The channels that the application reads: by its token, or joined; and the position in each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, Optional, Set

from ._handlers import Receiver, Registry
from ._load import Loading, Loads
from ._presence import Follows
from ._publishes import encode, ignore
from ._requests import Begin, Request, Room, Shown, allows, is_reached
from ._types import Access, ErrorEvent, Message, PhiloteError, Recovered

if TYPE_CHECKING:
    from ._core import Core

#: Earlier connections of this client whose messages may still be in a history; the oldest are forgotten first.
OWN = 100
class Channels:
    """What the application wants to read, what the connection reads, and what to ask the server for next."""

    def __init__(self, client: Core, history: bool) -> None:
        self._client = client
        self._history = history
        self.handlers = Registry()
        self.loads = Loads()
        self.follows = Follows()
        #: Each channel's last id, or its position before the first message.
        self.ids: Dict[str, str] = {}
        #: The server rejected the list of ids as too large.
        self.bare = False
        self._own: Dict[str, None] = {}
        #: Channels that were read before a cut: their messages may be this client's own.
        self._resumed: Set[str] = set()
        #: With ``history``, the receivers that wait for it, and channels of which they missed a message meanwhile.
        self._late: Dict[str, Dict[Receiver, None]] = {}
        self._skipped: Set[str] = set()
        #: The receivers for which old messages are delivered again.
        self._replay: Dict[str, List[Receiver]] = {}
        #: Channels with a handler for which it was reported that the token does not allow to read them.
        self._unread: Dict[str, None] = {}
        #: The channels that the application joined, and its calls of ``join`` that wait for the answer.
        self._rooms: Dict[str, List[asyncio.Future[None]]] = {}
        #: The channels that this connection has joined, and those that the one before had, which it resumes.
        self._joined: Dict[str, None] = {}
        self._rejoin: Dict[str, None] = {}
        #: The request that was sent and not answered, and whether there may be more to ask for.
        self.asked: Optional[Request] = None
        self._stale = False
        #: A request was invalid, which does not tell because of which channel, so each request has one channel.
        self._single = False
        self._attending = False
        self._read: Set[str] = set()

    # What the application wants.

    def add(self, channel: str, receiver: Receiver) -> None:
        if isinstance(receiver, Loading):
            self.loads.add(channel, receiver)
            if self._client.is_open and self.reads(channel):
                receiver.enter(self.ids.get(channel))
            elif self._client.is_running:
                receiver.start()
        elif self._history and not (self._client.is_open and self._is_live(channel)):
            self._late.setdefault(channel, {})[receiver] = None
        self.attend_later()

    def removed(self, channel: str, receiver: Receiver) -> None:
        self._begun(channel, [receiver])
        if isinstance(receiver, Loading):
            self.loads.remove(channel, receiver)
        if channel not in self.handlers:
            self._unread.pop(channel, None)
        self.attend_later()

    def start(self) -> None:
        """The client starts."""
        for channel in self.loads:
            for loading in self.loads.of(channel):
                loading.start()

    def join(self, channel: str, answer: asyncio.Future[None]) -> None:
        answer.add_done_callback(ignore)
        if self._client.is_open and self.reads(channel):
            answer.set_result(None)
        self._rooms.setdefault(channel, []).append(answer)
        self.wants(channel)

    def leave(self, channel: str) -> None:
        self._dismiss(channel, PhiloteError("left", f'channel "{channel}" was left before it was joined'))
        self.attend_later()

    def wants(self, channel: str) -> None:
        """The application wants it again, so a rejection is reported again."""
        self._unread.pop(channel, None)
        self.attend_later()

    def close(self, error: PhiloteError) -> None:
        for channel in list(self._rooms):
            self._dismiss(channel, error)

    # What the connection has.

    def reads(self, channel: str) -> bool:
        """Whether the token reads a channel, or this connection has joined it."""
        return channel in self._joined or channel in self._read

    def _may_join(self, channel: str) -> bool:
        access = self._client.access
        return access is not None and access.may is not None and allows(access.may.read, channel)

    def _is_room(self, channel: str) -> bool:
        """Whether a channel must be joined to be read."""
        return channel not in self._read and self._may_join(channel)

    def _is_live(self, channel: str) -> bool:
        """Whether a receiver of this channel, which is read, can only get new messages."""
        # Servers that do not report their limits deliver the history only of a channel that is joined.
        access = self._client.access
        return self.reads(channel) and (channel not in self.ids or access is None or access.max_message_size is None)

    def cut(self) -> None:
        """The connection ended."""
        self.asked = None
        self._single = False
        self.follows.cut()
        self._rejoin.update(self._joined)
        self._joined.clear()
        self._replay.clear()

    def frame(self, token: str, before: Optional[Access], longest: float) -> Shown:
        """The frame with a token: with the ids of channels that were read before a cut, if ``before`` is the access then,
        and null for those with waiting receivers."""
        since: Dict[str, Optional[str]] = {}
        begin: Begin = []
        if before is not None and not self.bare:
            # The token may now read a channel that was joined.
            for channel in [*before.read, *self._rejoin]:
                since[channel] = self.ids.get(channel)
        for channel, receivers in self._late.items():
            if channel in since or self._is_room(channel):
                continue
            begin.append((channel, list(receivers)))
            if not self.bare:
                since[channel] = None
        if not self.bare:
            for channel in self.loads:
                id = self.loads.id(channel)
                if id is not None:
                    since.setdefault(channel, id)
        if since:
            frame = encode({"auth": token, "since": since})
            if len(frame.encode()) <= longest:
                return Shown(token, frame, begin)
        return Shown(token, encode({"auth": token}), begin)

    # What the server tells.

    def renewed(
        self, before: Optional[Access], access: Access, begin: Begin, frame: Mapping[str, Any], is_open: bool
    ) -> Dict[str, bool]:
        """A token was accepted. Returns the channels of which receivers missed messages without a history."""
        told: Mapping[str, str] = frame.get("ids") or {}
        recovered: Mapping[str, bool] = frame.get("recovered") or {}
        stays = {channel for channel in self.loads if is_open and self.reads(channel)}
        self._own[access.connection] = None
        if len(self._own) > OWN:
            del self._own[next(iter(self._own))]
        self._read = set(access.read)
        # What the token before read and this one allows to join is joined without a gap.
        for channel in before.read if before else []:
            if self._is_room(channel):
                self._rejoin[channel] = None
        # A new connection gets the ids of all channels; an open one keeps its ids, and gets those of new channels.
        if not is_open:
            self.ids = {channel: id for channel, id in self.ids.items() if channel in self._rejoin}
            self._resumed = set(before.read if before else [])
        self.follows.stale()
        # What was denied before may be allowed now.
        self._unread = {channel: None for channel in self._unread if not self._may_join(channel)}
        kept = {channel for channel in [*self.ids, *self._resumed] if self.reads(channel) or channel in self._rejoin}
        self.ids = {channel: id for channel, id in self.ids.items() if channel in kept}
        self._resumed &= kept
        for channel, id in told.items():
            self.ids.setdefault(channel, id)
        missed = self._begin(begin, told)
        for channel in self.loads:
            if not self.reads(channel) and channel not in self._rejoin:
                self.loads.leave(channel)
            elif self.reads(channel) and channel not in stays:
                self.loads.enter(channel, told.get(channel), recovered.get(channel) is True)
        return missed

    def opened(self, before: Optional[Access], recovered: Mapping[str, bool]) -> Dict[str, bool]:
        """The connection is open. Returns for each channel that the one before had read whether it was recovered."""
        self.bare = False
        missed = {}
        for channel in [*(before.read if before else []), *self._rejoin]:
            if channel in self._read:
                missed[channel] = recovered.get(channel) is True
        for channel in self._read:
            self._rejoin.pop(channel, None)
        return missed

    def _begin(self, begin: Begin, told: Mapping[str, Any]) -> Dict[str, bool]:
        """Lets waiting receivers start if they can."""
        missed: Dict[str, bool] = {}
        self._replay.clear()
        for channel, receivers in begin:
            if not self.reads(channel):
                continue
            self._begun(channel, receivers)
            if channel in told:
                self._replay[channel] = receivers
            elif channel in self._skipped:
                missed[channel] = False
            self._skipped.discard(channel)
        self._late = {channel: late for channel, late in self._late.items() if not self._is_live(channel)}
        if self._history:
            # If a channel is joined again, its receivers get the history again.
            for channel in self.handlers.names():
                receivers = [one for one in self.handlers.get(channel) if not isinstance(one, Loading)]
                if receivers and not self.reads(channel) and channel not in self._rejoin:
                    self._late[channel] = dict.fromkeys(receivers)
        return missed

    def _begun(self, channel: str, receivers: Iterable[Receiver]) -> None:
        """Removes receivers from those that wait for the history."""
        late = self._late.get(channel, {})
        for receiver in receivers:
            late.pop(receiver, None)
        if not late:
            self._late.pop(channel, None)

    def accept(self, message: Message) -> bool:
        """Takes note of a message. Whether it is new to the application; an old one may be for some receivers only."""
        channel, id = message.channel, message.id
        if id is not None:
            if is_reached(self.ids.get(channel), id):
                return False
            self.ids[channel] = id
        return True

    def is_own(self, message: Message) -> bool:
        """A history does not know ended connections, so it also delivers what this client published itself."""
        return message.issuer in self._own and message.channel in self._resumed

    def deliver(self, message: Message, is_new: bool) -> None:
        """Calls the handlers of its channel: an old message only those that wait for it, a new one only the others."""
        late = self._late.get(message.channel, {})
        if is_new and late:
            self._skipped.add(message.channel)
        replay = self._replay.get(message.channel, [])
        fits = (lambda one: one not in late) if is_new else (lambda one: one in replay)
        self.handlers.emit(message.channel, (message.value, message), fits)

    def published(self, channel: str, id: str) -> None:
        """The client's own message advances its id as well, because all messages before it have arrived."""
        if channel in self.ids and not is_reached(self.ids[channel], id):
            self.ids[channel] = id

    def entered(self, joined: Mapping[str, Mapping[str, Any]]) -> None:
        """Channels were joined."""
        request = self.settle()
        told: Dict[str, str] = {}
        resumed: Dict[str, bool] = {}
        for channel, about in joined.items():
            id = about.get("id")
            is_new = channel not in self._joined
            if channel in self._rejoin:
                del self._rejoin[channel]
                self._resumed.add(channel)
                resumed[channel] = about.get("recovered") is True
            if id is not None:
                told[channel] = id
            if is_new and id is None:
                self.ids.pop(channel, None)
            elif is_new:
                self.ids[channel] = told[channel]
            if is_new:
                self.loads.enter(channel, id, about.get("recovered") is True)
            self._joined[channel] = None
            self._satisfy(channel)
        missed = {**self._begin(request.begin if request else [], told), **resumed}
        for channel, recovered in missed.items():
            self._client.tell("recovered", Recovered(channel, recovered))
        self.attend()

    def parted(self, left: List[str]) -> None:
        """Channels were left, because the application wanted it or because another token does not allow them."""
        if self.asked and self.asked.kind == "leave" and set(self.asked.names) == set(left):
            self.settle()
        for channel in left:
            self._joined.pop(channel, None)
            self.ids.pop(channel, None)
            self._resumed.discard(channel)
            self.loads.leave(channel)
            self.follows.unfollow(channel)
        self.attend()

    def present(self, frame: Mapping[str, Any]) -> None:
        """Who reads a channel. The answers to a request come one for each channel; changes may come between them."""
        request = self.asked
        if request and request.kind == "presence" and "joined" not in frame and frame["channel"] in request.names:
            request.answers -= 1
            if not request.answers:
                self.settle()
                self.attend()
        self.follows.told(frame)

    def settle(self, limited: bool = False) -> Optional[Request]:
        """The request was answered."""
        request, self.asked = self.asked, None
        if request:
            self._client.answered(request.size, limited)
        return request

    def denied(self, error: ErrorEvent, limited: bool) -> None:
        """The request was rejected, because of one of its channels or because it was too fast."""
        request = self.settle(limited)
        assert request is not None
        self._stale = True
        if request.kind == "presence":
            for name in request.names:
                self.follows.unfollow(name)
        if limited:
            return
        channel = error.channel if error.channel is not None else request.names[0]
        if error.channel is None and len(request.names) > 1:
            self._single = True
        elif request.kind == "leave":
            # What cannot be left is read because of the token.
            self._joined.pop(channel, None)
        elif request.kind == "presence":
            self.follows.watchers.drop(channel)
            self._client.tell("error", ErrorEvent("forbidden", error.message, channel))
        else:
            self._forbid(channel, error.message)

    # What to ask for.

    def attend_later(self) -> None:
        """Later, because the application may add more handlers, or request a token with this channel."""
        if not self._attending and self._client.is_open:
            self._attending = True
            self._client.later(self._attend_now)

    def _attend_now(self) -> None:
        self._attending = False
        self.attend()

    def attend(self) -> None:
        """Handles what the application wants to read since the last token was sent."""
        if not self._client.is_settled:
            return
        wanted = self._wanted()
        for channel in [one for one in self._rejoin if one not in wanted]:
            self._rejoin.pop(channel)
            self.ids.pop(channel, None)
            self._resumed.discard(channel)
        for channel in wanted:
            if self.reads(channel):
                self._unread.pop(channel, None)
                self._satisfy(channel)
            elif channel not in self._unread and not self._may_join(channel):
                self._forbid(channel, f'this token may not read channel "{channel}"')
        if not self._client.is_settled:
            return
        self._stale = True
        if any(channel in self._read for channel in self._late):
            self._client.show_again()
        else:
            self._client.flush()

    def _wanted(self) -> Dict[str, None]:
        """The channels with a handler, and those that the application joined or follows."""
        return dict.fromkeys([*self.handlers.names(), *self._rooms, *self.follows.watchers.names()])

    def _is_awaited(self, channel: str) -> bool:
        """Whether a channel is wanted only by handlers whose first state has not been loaded yet."""
        awaited = self.loads.awaited(channel)
        others = len(self.handlers.get(channel)) != awaited or channel in self._rooms or channel in self.follows.watchers
        return awaited > 0 and not others

    def _satisfy(self, channel: str) -> None:
        """Answers the calls of ``join`` for a channel that is read."""
        if channel in self._rooms:
            waiting, self._rooms[channel] = self._rooms[channel], []
            for answer in waiting:
                if not answer.done():
                    answer.set_result(None)

    def _dismiss(self, channel: str, error: PhiloteError) -> None:
        for answer in self._rooms.pop(channel, []):
            if not answer.done():
                answer.set_exception(error)

    def _forbid(self, channel: str, message: str) -> None:
        """Reports that a channel cannot be read."""
        self._rejoin.pop(channel, None)
        self.loads.leave(channel)
        self._dismiss(channel, PhiloteError("forbidden", message))
        if channel in self.handlers:
            self._unread[channel] = None
        self._client.tell("error", ErrorEvent("forbidden", message, channel))

    def next_request(self) -> Optional[Request]:
        """The next request to join or leave channels, or for presence, if there is one to send."""
        if not self._stale or self.asked:
            return None
        wanted = self._wanted()
        room = Room(self._client.access, self._single)
        left = [one for one in self._joined if one not in wanted and room.fits(one)]
        if left:
            for channel in left:
                if channel in self._read:
                    del self._joined[channel]
            left = [channel for channel in left if channel not in self._read]
            return Request("leave", encode({"leave": left}), left) if left else self.next_request()
        return self._joining(wanted) or self._following()

    def _joining(self, wanted: Iterable[str]) -> Optional[Request]:
        names: List[str] = []
        since: Dict[str, Optional[str]] = {}
        begin: Begin = []
        room = Room(self._client.access, self._single)
        for channel in wanted:
            late = self._late.get(channel)
            if not self._is_room(channel) or channel in self._unread:
                continue
            if channel in self._joined and not (late and not self._is_live(channel)):
                continue
            if self._is_awaited(channel):
                continue
            if not room.fits(channel):
                break
            names.append(channel)
            id = self.loads.id(channel)
            if channel in self._rejoin:
                since[channel] = self.ids.get(channel)
            elif late:
                since[channel] = None
                begin.append((channel, list(late)))
            elif id is not None:
                since[channel] = id
        return Request("join", encode({"join": names, "since": since}), names, begin) if names else None

    def _following(self) -> Optional[Request]:
        room = Room(self._client.access, self._single)
        names, follow = self.follows.pick(self.reads, room.fits)
        self._stale = bool(names)
        if not names:
            return None
        frame = encode({"presence": names, "follow": follow})
        return Request("presence", frame, names, answers=len(names), follow=follow)

    def sending(self, request: Request) -> None:
        """This request is sent now."""
        self.asked = request
        if request.kind == "presence":
            self.follows.asked(request.names, request.follow)
