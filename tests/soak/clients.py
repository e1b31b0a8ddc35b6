"""Clients that read channels over one connection after another, join and leave rooms, follow presence, and publish."""

import asyncio
import contextlib
import itertools
import json
import socket
import time

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

from model import position_of

# The longest that an answer may take, in seconds; the machine may be busy, and NATS away.
PATIENCE = 60
# The receive buffer and the segments of clients that are slow, in bytes. The server's kernel makes a send buffer of many
# segments, and those of the loopback interface have 64 KiB; so a burst would hardly reach the server's queue.
SMALL_BUFFER, SMALL_SEGMENT = 64 * 1024, 1000


class Client:
    """What all clients have in common: a name, a subject, connections, and how these end."""

    protocols = ["philote.v1"]

    def __init__(self, world, name, reads=(), may=(), tls=False, slow=False, subject=None, presence=False, stays=(15, 90)):
        self.world, self.model, self.name = world, world.model, name
        self.rng = world.random(name)
        self.reads, self.may, self.tls, self.slow = list(reads), list(may), tls, slow
        self.subject, self.presence, self.stays = subject or name, presence, stays
        self.attentive_since, self.pause, self.flowing = None, 0, asyncio.Event()
        self.flowing.set()
        # The newest position known of each channel, with the time when it was learned, and when that connection was opened.
        self.positions = {}
        self.reset()

    def reset(self):
        """What belongs to one connection."""
        self.socket = self.node = self.server_id = self.serial = self.opened = self.joining = self.leaving_rooms = None
        self.reading, self.entered, self.views, self.waiting, self.since = set(), set(), {}, {}, {}
        self.cancelled = False
        self.closing, self.sequence, self.opened_event, self.answers = False, itertools.count(1), asyncio.Event(), {}

    def claims(self):
        claims = {"read": self.reads, "sub": self.subject, "write": self.reads, "iat": int(time.time())}
        if self.may:
            claims["may"] = {"read": self.may, "write": self.may}
        if self.presence:
            claims["presence"] = True
        return claims

    async def run(self):
        await asyncio.sleep(self.rng.uniform(0, 3))
        while not self.world.stopping:
            await self.session()
            await asyncio.sleep(self.rng.uniform(0.05, 1.5))

    async def session(self):
        """One connection, from its request to its end."""
        self.reset()
        self.node, self.serial = self.rng.choice(self.world.nodes), next(self.world.serials)
        self.token, self.key, self.expires = self.world.sign(self.claims(), self.rng)
        actions = None
        try:
            async with self.connect() as self.socket:
                self.world.check_certificate(self)
                self.attentive_since = self.opened = self.world.now()
                self.start = self.node.starts
                await self.greet()
                actions = asyncio.create_task(self.act())
                async for frame in self.socket:
                    self.handle(json.loads(frame))
                    await self.read_slowly()
        except InvalidStatus as refusal:
            self.world.ended(self, f"refused with {refusal.response.status_code}", refusal.response.body.decode())
        except ConnectionClosed:
            pass
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        except (InvalidMessage, InvalidHandshake, EOFError, OSError, TimeoutError) as error:
            if self.opened is None:
                self.world.ended(self, "failed to connect", f"{type(error).__name__}: {error}")
        finally:
            self.attentive_since = None
            if actions:
                actions.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                    await actions
            self.finish()

    def connect(self):
        node, secure = self.node, self.tls
        port = node.tls_port if secure else node.plain_port
        options = {"ssl": self.world.tls_context, "server_hostname": "localhost"} if secure else {}
        if self.slow:
            options["sock"] = socket.socket()
            options["sock"].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            options["sock"].setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)
            options["sock"].connect(("127.0.0.1", port))
        return connect(
            f"{'wss' if secure else 'ws'}://127.0.0.1:{port}/",
            subprotocols=self.protocols, compression=None, ping_interval=None, proxy=None, user_agent_header=None,
            open_timeout=PATIENCE, close_timeout=10, additional_headers=self.headers(), **options,
        )

    def headers(self):
        return {}

    async def greet(self):
        """Sends the token, and asks for what was missed on the channels whose positions are known."""
        request = {"auth": self.token}
        self.since = {name: self.positions[name] for name in self.reads if name in self.positions}
        since = {name: f"{epoch}-{number}" for name, (epoch, number, *_) in self.since.items()}
        since |= {name: None for name in self.reads if name not in since and self.rng.random() < 0.3}
        self.whole = {name for name, id in since.items() if id is None}
        if since:
            request["since"] = since
        await self.socket.send(json.dumps(request))

    async def read_slowly(self):
        if self.pause:
            await asyncio.sleep(self.pause)
        if not self.flowing.is_set():
            self.attentive_since = None
            await self.flowing.wait()
            self.attentive_since = self.world.now()

    def finish(self):
        """Tells the model how the connection ended."""
        if self.opened is not None:
            code, reason = self.socket.close_code, self.socket.close_reason
            received = self.socket.protocol.close_rcvd is not None
            if self.cancelled or (self.closing and not (received and code not in (1000, 1005))):
                self.world.count_ending("by the client", "")
            else:
                self.world.ended(self, code if received else 1006, reason)
        floors = self.world.floors_of(self) if self.opened is not None else {}
        for name in self.reading:
            self.model.suspend(self, name, floors.get(name))
            self.world.presence.leave(self, name)
        for message in self.waiting.values():
            self.model.unknown(message)
        self.world.connections.discard(self)

    # What arrives.

    def handle(self, frame):
        if "issuer" in frame:
            self.handle_message(frame)
        elif "ack" in frame and "error" not in frame:
            self.handle_ack(frame)
        elif "error" in frame:
            self.handle_error(frame)
        else:
            for kind in ("access", "joined", "left", "presence"):
                if kind in frame:
                    return getattr(self, f"handle_{kind}")(frame[kind])
            self.model.fail(f"{self.name} got a frame of no known kind: {frame}")

    def handle_message(self, frame):
        self.model.deliver(self, frame, self.serial)
        epoch, number = position_of(frame["id"])
        self.learn(frame["channel"], epoch, number)

    def learn(self, name, epoch, number):
        before = self.positions.get(name)
        if before is None or before[0] != epoch or before[1] < number:
            self.positions[name] = epoch, number, self.world.now(), self.opened

    def handle_access(self, access):
        if self.server_id is None:
            self.server_id = access["connection"]
            self.world.connections.add(self)
            self.opened_event.set()
        ids, recovered = access.get("ids", {}), access.get("recovered", {})
        for name in [name for name in self.reading if name not in access["read"] and name not in self.entered]:
            self.stop_reading(name)
        for name in ids:
            self.start_reading(name, ids, recovered.get(name), self.since, name in self.whole)
        missing = set(access["read"]) - self.reading
        if missing:
            self.model.fail(f"{self.name}: the answer to a token has no positions of {missing}")
        self.answer("access", access)

    def start_reading(self, name, ids, recovered, since, whole=False):
        position, told = position_of(ids[name]), {name: position_of(id)[1] for name, id in ids.items()}
        # A node that is slow to read the log admits clients before, and closes them when it has read it. Their positions are
        # those that it has reached: older than the answer by a time that nobody knows.
        reads_log = self.world.clustered and self.world.may_break(self.node)
        if recovered:
            self.model.resume(self, name, since[name][:2], self.serial, self.server_id)
        else:
            if recovered is False:
                self.model.counts["not recovered"] += 1
                if not reads_log and self.model.must_recover(since, told, self.world.limits(self.node)):
                    after = f"{since[name][0]}-{since[name][1]}"
                    self.model.fail(
                        f"{self.name}: recovered is false for {name} after {after}, which the history has; now {ids[name]}"
                    )
            self.model.begin(self, name, position, self.serial, self.server_id, whole)
            self.positions[name] = *position, float("-inf") if reads_log else self.world.now(), self.opened
        self.reading.add(name)
        self.world.presence.enter(self, name)

    def stop_reading(self, name, floor=None):
        self.model.suspend(self, name, floor)
        self.reading.discard(name)
        self.views.pop(name, None)
        self.world.presence.leave(self, name)

    def handle_joined(self, joined):
        rooms, since = self.joining
        if set(joined) != set(rooms):
            self.model.fail(f"{self.name} asked to join {rooms} and joined {set(joined)}")
        ids = {name: answer["id"] for name, answer in joined.items() if "id" in answer}
        for name, answer in joined.items():
            if name in ids:
                self.start_reading(name, ids, answer.get("recovered"), since)
            elif name not in self.reading:
                self.model.fail(f"{self.name} joined {name} without a position: {answer}")
        self.entered.update(self.reading.intersection(joined))
        self.answer("joined", joined)

    def handle_left(self, left):
        for name in left:
            if name in self.entered:
                self.entered.discard(name)
                self.stop_reading(name, (self.leaving_rooms or {}).get(name))
        self.answer("left", left)

    def handle_presence(self, told):
        self.world.presence.told(self, told)

    def handle_ack(self, frame):
        message = self.waiting.pop(frame["ack"], None)
        if message is None:
            return self.model.fail(f"{self.name} got an answer to a message that it did not send: {frame}")
        if "id" not in frame:
            # The client cannot go on from here, because its node has not delivered everything before.
            if not self.world.clustered:
                self.model.fail(f"{self.name} was not told the place of {message}: {frame}")
            return self.model.acked(message)
        epoch, number = position_of(frame["id"])
        self.model.acked(message, (epoch, number))
        if message.channel in self.reading:
            self.learn(message.channel, epoch, number)

    def handle_error(self, frame):
        message, code = self.waiting.pop(frame.get("ack"), None), frame["error"]
        if code in ("unavailable", "unanswered") and self.world.excuses(self.node):
            # A classic client is not told which message it is.
            if message is None:
                return None
            return self.model.refused(message) if code == "unavailable" else self.model.unknown(message)
        if message is not None and code == "forbidden" and message.channel == "forbidden":
            return self.model.refused(message)
        self.model.fail(f"{self.name} got an error: {frame}")

    # What clients do.

    async def act(self):
        """Acts until the connection ends, after which it is cancelled. A plain client only reads."""

    async def ask(self, kind, frame):
        """Sends a request and waits for its answer."""
        self.answers[kind] = asyncio.get_running_loop().create_future()
        await self.socket.send(json.dumps(frame))
        try:
            return await asyncio.wait_for(self.answers[kind], PATIENCE)
        except asyncio.TimeoutError:
            if self.world.is_calm():
                self.model.fail(f"{self.name} got no answer to {list(frame)} within {PATIENCE} s")

    def answer(self, kind, value):
        future = self.answers.pop(kind, None)
        if future and not future.done():
            future.set_result(value)

    async def publish(self, name, size=None):
        key = f"{self.name}.{self.serial}/{next(self.sequence)}"
        message = self.model.publish(key, name, size or self.rng.randrange(20, 400), self.serial, self.subject)
        self.waiting[key] = message
        await self.socket.send(self.world.message_frame(message, ack=key))

    async def leave_server(self):
        """Closes the connection, or lets it end without a Close."""
        self.closing = True
        if self.rng.random() < 0.4:
            self.socket.transport.abort()
        else:
            await self.socket.close()


class Steady(Client):
    """Reads the channels of its token, publishes on them, replaces its token, and resumes."""

    async def act(self):
        await self.opened_event.wait()
        until = self.world.now() + self.rng.uniform(*self.stays)
        while self.world.now() < until:
            await asyncio.sleep(self.rng.uniform(0.5, 2.5))
            await self.publish(self.rng.choice(self.reads))
            if self.rng.random() < 0.03 or (self.world.key_is_old(self.key) and self.rng.random() < 0.2):
                await self.replace_token()
        await self.leave_server()

    async def replace_token(self):
        """Reads other channels from now on, with a token of the newest secret."""
        kept = self.rng.sample(self.reads, len(self.reads) - 1)
        others = [name for name in self.world.channels if name not in self.reads]
        self.reads = [*kept, self.rng.choice(others)]
        known = [name for name in self.reads if name in self.positions and name not in self.reading]
        self.since = {name: self.positions[name] for name in known}
        self.whole = set()
        token, key, expires = self.world.sign(self.claims(), self.rng, newest=True)
        since = {name: f"{epoch}-{number}" for name, (epoch, number, *_) in self.since.items()}
        if await self.ask("access", {"auth": token, "since": since}):
            self.key, self.expires = key, expires


class Roamer(Client):
    """Joins and leaves rooms, follows who is there, and publishes."""

    rooms_before = ()

    async def act(self):
        await self.opened_event.wait()
        until = self.world.now() + self.rng.uniform(*self.stays)
        if self.rooms_before:
            await self.join(self.rooms_before, 0.8)
        while self.world.now() < until:
            await asyncio.sleep(self.rng.uniform(0.4, 2.5))
            await self.one_action()
        self.rooms_before = sorted(self.entered)
        await self.leave_server()

    async def one_action(self):
        joined, chance = sorted(self.entered), self.rng.random()
        if chance < 0.35 or not joined:
            await self.join(self.rng.sample(self.world.rooms, self.rng.randint(1, 3)), 0.6)
        elif chance < 0.55:
            rooms = self.rng.sample(joined, self.rng.randint(1, min(2, len(joined))))
            self.leaving_rooms = self.world.floor(rooms)
            await self.ask("left", {"leave": rooms})
        elif chance < 0.57:
            await self.publish("forbidden")
        elif chance < 0.65 and self.presence:
            await self.follow(joined)
        else:
            await self.publish(self.rng.choice(joined if self.rng.random() < 0.6 else self.world.rooms))
        self.rooms_before = sorted(self.entered)

    async def join(self, rooms, chance):
        """Joins rooms, some of them from the position at which they were left."""
        since = {
            name: self.positions[name]
            for name in rooms
            if name in self.positions and name not in self.reading and self.rng.random() < chance
        }
        request = {"join": list(rooms)}
        if since:
            request["since"] = {name: f"{epoch}-{number}" for name, (epoch, number, *_) in since.items()}
        self.joining = (rooms, since)
        await self.ask("joined", request)

    async def follow(self, joined):
        room = self.rng.choice(joined)
        following = room not in self.views
        await self.socket.send(json.dumps({"presence": [room], "follow": following}))
        if following:
            self.views[room] = None
        else:
            del self.views[room]


class Slow(Steady):
    """Reads a flooded channel too, slowly or with long stops, until it is told that it is too slow."""

    async def act(self):
        await self.opened_event.wait()
        while True:
            await asyncio.sleep(self.rng.uniform(2, 12))
            if self.rng.random() < 0.5:
                self.pause = self.rng.choice([0, 0.002, 0.02])
            else:
                self.flowing.clear()
                await asyncio.sleep(self.rng.uniform(3, 25))
                self.flowing.set()

    def finish(self):
        self.flowing.set()
        super().finish()


class Classic(Client):
    """A client of the classic protocol: its token is in the request, and it is told no position."""

    protocols = None

    def headers(self):
        return {"Authorization": f"Bearer {self.token}"}

    async def greet(self):
        self.server_id = "unknown"
        self.world.connections.add(self)
        for name in self.reads:
            self.model.end(self, name)
            self.model.begin(self, name, None, self.serial, self.server_id)
            self.reading.add(name)
            self.world.presence.enter(self, name)

    async def act(self):
        until = self.world.now() + self.rng.uniform(*self.stays)
        while self.world.now() < until:
            await asyncio.sleep(self.rng.uniform(1, 4))
            key = f"{self.name}.{self.serial}/{next(self.sequence)}"
            message = self.model.publish(key, self.rng.choice(self.reads), 60, self.serial, self.subject)
            await self.socket.send(self.world.message_frame(message))
            self.model.unknown(message)
        await self.leave_server()
