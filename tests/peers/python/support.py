"""A server that a test scripts, and clients of packaging/python for it."""

import asyncio
import faulthandler
import gc
import json
import logging
import sys
import unittest
from pathlib import Path

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

sys.path.insert(0, str(Path(__file__).parents[3] / "packaging/python"))

from philote_client import Philote  # noqa: E402

#: The time limit of a test in seconds, so that a missing event is a failure and not a hang.
DEADLINE = 20


class Box:
    """A queue whose readers wait for the next value."""

    def __init__(self):
        self._queue = asyncio.Queue()
        self.put = self._queue.put_nowait
        self.next = self._queue.get

    async def until(self, fits):
        """Takes values until one matches."""
        while True:
            value = await self.next()
            if fits(value):
                return value

    def empty(self):
        return self._queue.empty()

    def all(self):
        """Takes all that is there."""
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]


class Connection:
    """What a client opened: ``next`` takes its frames."""

    def __init__(self, socket, id):
        self.socket = socket
        self.id = id
        self.frames = Box()
        self.next = self.frames.next

    async def send(self, frame):
        await self.socket.send(json.dumps(frame))

    async def access(self, **more):
        base = {"connection": self.id, "read": ["chat"], "write": ["chat"], "expires_at": None}
        await self.send({"access": {**base, **more}})

    async def say(self, data, **more):
        await self.send({"issuer": "other", "channel": "chat", "data": data, **more})

    async def close(self, code, reason=""):
        await self.socket.close(code, reason)

    def terminate(self):
        self.socket.transport.abort()


class ClientTest(unittest.IsolatedAsyncioTestCase):
    """Each test has a server, and fails if it leaves a task, a warning or an exception that it does not take."""

    async def asyncSetUp(self):
        faulthandler.dump_traceback_later(DEADLINE, exit=True)
        #: The exceptions that were reported.
        self.mistakes = Box()
        asyncio.get_running_loop().slow_callback_duration = 60
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.mistakes.put(context))
        self.unraisable = []
        sys.unraisablehook = lambda mistake: self.unraisable.append(str(mistake.exc_value))
        self.connections = Box()
        self.count = 0
        self.clients = []
        # The server would log the frames of the client.
        quiet = logging.getLogger("the scripted server")
        quiet.setLevel(logging.INFO)
        options = {"subprotocols": ["philote.v1"], "ping_interval": None, "logger": quiet}
        self.server = await serve(self._serve, "127.0.0.1", 0, **options)
        self.url = f"ws://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/"
        self.before = self.tasks()

    async def asyncTearDown(self):
        for client in self.clients:
            await client.__aexit__(None, None, None)
        self.server.close()
        await self.server.wait_closed()
        self.assertEqual(self.tasks() - self.before, set(), "tasks were leaked")
        gc.collect()
        self.assertEqual(self.mistakes.all(), [])
        self.assertEqual(self.unraisable, [])
        sys.unraisablehook = sys.__unraisablehook__
        faulthandler.cancel_dump_traceback_later()

    @staticmethod
    def tasks():
        return asyncio.all_tasks() - {asyncio.current_task()}

    async def _serve(self, socket):
        self.count += 1
        connection = Connection(socket, f"connection-{self.count}")
        self.connections.put(connection)
        try:
            async for text in socket:
                connection.frames.put(json.loads(text))
        except ConnectionClosed:
            pass

    async def start(self, url=None, **options):
        """A client that reconnects at once, with the events that it reports."""
        options = {"token": lambda: "a token", "backoff": (0.001, 0.001), "probe": 0, **options}
        client = Philote(url or self.url, **options)
        client.states, client.errors, client.values, client.recovered = Box(), Box(), Box(), []
        client.when("state", client.states.put)
        client.when("recovered", lambda one: client.recovered.append((one.channel, one.recovered)))
        client.when("error", client.errors.put)
        client.on("chat", lambda value, message: client.values.put((value, message)))
        client.reached = lambda state: client.states.until(lambda one: one.state == state)
        self.clients.append(client)
        return await client.__aenter__()

    async def both(self, access=None, **options):
        """A client that its server has admitted, and the connection."""
        client = await self.start(**options)
        connection = await self.connections.next()
        await connection.next()
        await connection.access(**(access or {}))
        await client.reached("open")
        return client, connection

    async def next_value(self, client):
        return (await client.values.next())[0]

    async def code_of(self, future):
        """The code with which it fails."""
        with self.assertRaises(Exception) as caught:
            await future
        return caught.exception.code


