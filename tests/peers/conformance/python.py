"""The adapter of ``philotectl conformance`` for the client of packaging/python: lines of JSON on standard input and output."""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "packaging" / "python"))

from philote_client import Philote, PhiloteError  # noqa: E402

#: The longest line, in bytes.
LONGEST = 4 * 2**20


def tell(event, **more):
    sys.stdout.write(json.dumps({"event": event, **more}) + "\n")
    sys.stdout.flush()


class Adapter:
    def __init__(self):
        self.client = None
        #: Calls of ``token()`` that wait for a line with a token.
        self.asked = []
        #: Answers that are awaited.
        self.tasks = set()

    async def connect(self, url, token, channels, timers):
        first = [token]

        def another():
            if first:
                return first.pop()
            tell("token")
            answer = asyncio.get_running_loop().create_future()
            self.asked.append(answer)
            return answer

        backoff = (timers["backoff_first"] / 1000, timers["backoff_longest"] / 1000)
        self.client = Philote(url, token=another, json=False, backoff=backoff, probe=timers["silence"] / 1000)
        for channel in channels:
            self.client.on(channel, lambda value, message: None)
        self.client.when("state", lambda one: tell("state", state=one.state, code=one.code, reason=one.reason))
        self.client.when("message", lambda one: tell("message", channel=one.channel, data=one.data))
        self.client.when("recovered", lambda one: tell("recovered", channel=one.channel, recovered=one.recovered))
        self.client.when("error", lambda one: tell("error", message=one.message))
        await self.client.__aenter__()

    async def token(self, token):
        self.asked.pop(0).set_result(token)

    async def publish(self, number, channel, data):
        answer = self.client.publish(channel, data)

        async def report():
            try:
                tell("published", number=number, readers=await answer)
            except PhiloteError as error:
                tell("failed", number=number, code=error.code, message=error.message)

        task = asyncio.create_task(report())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def join(self, channel):
        self.client.join(channel)

    async def leave(self, channel):
        self.client.leave(channel)

    async def run(self):
        tell("hello", version=1)
        reader = asyncio.StreamReader(limit=LONGEST)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            request = json.loads(line)
            command = request.pop("command")
            if command == "quit":
                break
            await getattr(self, command)(**request)
        if self.client is not None:
            await self.client.__aexit__(None, None, None)


asyncio.run(Adapter().run())
