"""The client of packaging/python, driven by a test: commands come on standard input, events leave on standard output.

Each is a JSON array a line, a command or an event with its details.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "packaging/python"))

from philote_client import Philote, PhiloteError, sign  # noqa: E402
from philote_client.api import Api  # noqa: E402


def tell(*event):
    print(json.dumps(event), flush=True)


class Driver:
    def __init__(self, client, claims, url):
        self.client, self.claims, self.url = client, claims, url
        self.ends, self.tasks = {}, []
        client.when("state", lambda one: tell("state", {"state": one.state, "code": one.code, "reason": one.reason}))
        client.when("recovered", lambda one: tell("recovered", {"channel": one.channel, "recovered": one.recovered}))
        client.when("error", lambda one: tell("error", {"error": one.error, "message": one.message, "channel": one.channel}))

    def on(self, *channels):
        for channel in channels:
            put = lambda value, message: tell("value", value, message.channel)  # noqa: E731
            self.ends[channel] = self.client.on(channel, put)

    def off(self, channel):
        self.ends.pop(channel)()

    def publish(self, channel, *values):
        for value in values:
            self.answer(value, self.client.publish(channel, value))

    def join(self, *channels):
        for channel in channels:
            self.answer(channel, self.client.join(channel))

    def leave(self, *channels):
        for channel in channels:
            self.client.leave(channel)

    def presence(self, channel):
        self.client.presence(channel, lambda one: tell("presence", {"subjects": one.subjects, "joined": one.joined, "left": one.left}))

    def events(self, *channels):
        self.tasks.append(asyncio.ensure_future(self.follow(channels)))

    async def follow(self, channels):
        token = lambda: sign(os.environ["SECRET"], exp=None, api=["events"])  # noqa: E731
        async with Api(self.url, token=token, backoff=(0.001, 0.05)) as api:
            async for event in api.events(channels):
                tell("event", {"event": event.event, "channel": event.channel, "subject": event.subject, "code": event.code})

    def refresh(self, **claims):
        self.claims.clear()
        self.claims.update(claims)
        self.client.refresh()

    def access(self):
        tell("access", {"rate": self.client.access.messages_per_second})

    def answer(self, name, future):
        def done(future):
            try:
                tell("answer", name, {"result": future.result()})
            except PhiloteError as error:
                tell("answer", name, {"code": error.code, "message": error.message})

        future.add_done_callback(done)


async def main(url, claims, options):
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 60
    async with Philote(url, token=lambda: sign(os.environ["SECRET"], exp=None, **claims), backoff=(0.001, 0.05), **options) as client:
        driver = Driver(client, claims, url)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            name, *details = json.loads(line)
            if name == "refresh":
                driver.refresh(**details[0])
            else:
                getattr(driver, name)(*details)
        for task in driver.tasks:
            task.cancel()
        await asyncio.gather(*driver.tasks, return_exceptions=True)
    tell("tasks", len(asyncio.all_tasks()))


asyncio.run(main(*map(json.loads, sys.argv[1:])))
