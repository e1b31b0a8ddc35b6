"""What client_conversation.html does, in Python: the changes of its record go to standard output, one JSON array a line."""

import asyncio
import json
import sys
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[2] / "packaging/python"))

from philote_client import Philote, PhiloteError  # noqa: E402


class Application:
    def __init__(self, backend, http, client):
        self.backend, self.http, self.client = backend, http, client
        # The conversation as the application stores it.
        self.kept = []
        self.mending = asyncio.Queue()

    def tell(self, name, value):
        print(json.dumps([name, value]), flush=True)

    def keep(self, number):
        if number > (self.kept[-1] if self.kept else 0):
            self.kept.append(number)
            self.tell("kept", number)

    def on_state(self, state):
        self.tell("states", {"state": state.state, "code": state.code, "reason": state.reason})

    def on_recovered(self, one):
        if one.channel == "quiet":
            return self.tell("quiet", one.recovered)
        self.tell("told", {"recovered": one.recovered})
        if not one.recovered:
            self.mending.put_nowait(None)

    async def on_number(self, number, message):
        self.tell("told", {"number": number, "id": message.id})
        self.mending.put_nowait(number)
        if number % 100 == 0:
            self.client.publish("answers", number).add_done_callback(lambda answer: self.on_answer(number, answer))
            self.tell("said", number)

    def on_answer(self, number, answer):
        try:
            self.tell("answers", {"number": number, "readers": answer.result()})
        except PhiloteError as error:
            self.tell("answers", {"number": number, "error": error.code})

    async def mend(self):
        """The application fetches what was missed from its own storage."""
        while True:
            number = await self.mending.get()
            if number is not None:
                self.keep(number)
                continue
            after = self.kept[-1] if self.kept else 0
            for missed in (await self.http.get(f"{self.backend}log?after={after}")).json():
                self.keep(missed)


async def main(backend, url):
    # On a busy machine asyncio's debug mode reports calls that took long.
    asyncio.get_running_loop().slow_callback_duration = 60
    async with httpx.AsyncClient() as http:

        async def token():
            answer = await http.get(f"{backend}token")
            if answer.status_code != 200:
                raise RuntimeError(answer.text)
            return answer.text

        # A dead network is detected after six silent seconds here, and the waits are short, to keep the test short.
        async with Philote(url, token=token, backoff=(0.05, 1), probe=6) as client:
            application = Application(backend, http, client)
            client.when("state", application.on_state)
            client.when("recovered", application.on_recovered)
            client.on("numbers", application.on_number)
            mending = asyncio.ensure_future(application.mend())
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
            mending.cancel()
    print(json.dumps(["tasks", len(asyncio.all_tasks())]), flush=True)


asyncio.run(main(*sys.argv[1:3]))
