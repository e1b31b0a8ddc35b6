"""Who reads the channels that the application follows."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Tuple

from ._handlers import Receiver, Registry
from ._types import Presence

#: The most channels in one request for presence: fewer than the server answers in a second.
FOLLOWS = 50


class Follows:
    """The handlers of presence, what is known, and the channels that this connection follows."""

    def __init__(self) -> None:
        self.watchers = Registry()
        self._known: Dict[str, Presence] = {}
        self._followed: Dict[str, None] = {}

    def known(self, channel: str, watcher: Receiver) -> None:
        """Tells a handler everything anew."""
        presence = self._known.get(channel)
        if presence is not None and watcher in self.watchers.get(channel):
            watcher.offer(Presence(channel, presence.subjects, [], [], presence.count, presence.anonymous))

    def pick(self, reads: Callable[[str], bool], fits: Callable[[str], bool]) -> Tuple[List[str], bool]:
        """The channels of the next request, and whether it follows them or no longer does."""
        follow = [one for one in self.watchers.names() if one not in self._followed and reads(one)]
        some = follow or [one for one in self._followed if one not in self.watchers]
        names: List[str] = []
        for one in some[:FOLLOWS]:
            if not fits(one):
                break
            names.append(one)
        return names, bool(follow)

    def asked(self, names: List[str], follow: bool) -> None:
        """This request is sent."""
        for one in names:
            if follow:
                self._followed[one] = None
            else:
                self.unfollow(one)

    def unfollow(self, channel: str) -> None:
        self._followed.pop(channel, None)
        self._known.pop(channel, None)

    def stale(self) -> None:
        """Another token may have ended the following; all are asked for again."""
        self._followed.clear()

    def cut(self) -> None:
        self._followed.clear()
        self._known.clear()

    def told(self, frame: Mapping[str, Any]) -> None:
        """Who reads a channel, or what has changed since."""
        channel = frame["channel"]
        if channel not in self._followed:
            return
        before = self._known.get(channel)
        joined, left, info = frame.get("joined") or [], frame.get("left") or [], frame.get("info") or {}
        subjects: Any = None
        if "joined" not in frame:
            subjects = frame.get("subjects")
            subjects = None if subjects is None else {name: info.get(name) for name in subjects}
        elif before is not None and before.subjects is not None:
            subjects = {**before.subjects, **{name: info.get(name) for name in joined}}
            for name in left:
                subjects.pop(name, None)
        anonymous = frame.get("anonymous", before.anonymous if before else 0)
        presence = Presence(channel, subjects, joined, left, frame["count"], anonymous)
        self._known[channel] = presence
        self.watchers.emit(channel, (presence,))
