"""The HTTP API in packaging/python: against the daemon at PHILOTE_ADDRESS, and streams of events from a scripted server."""

import asyncio
import faulthandler
import json
import os
import unittest
from datetime import timedelta
from unittest import mock

import httpx
from support import DEADLINE, Box, ClientTest

from philote_client import Philote, sign
from philote_client.api import Api, ApiError, Outgoing, Published

ADDRESS, SECRET = os.environ["PHILOTE_ADDRESS"], os.environ["SECRET"]


def token(**claims):
    return lambda: sign(SECRET, exp=timedelta(minutes=1), **claims)


class Daemon(ClientTest):
    async def reader(self, channel, **claims):
        client = Philote(f"ws://{ADDRESS}/", token=token(read=[channel], **claims))
        seen, opened = Box(), Box()
        client.on(channel, lambda value, _: seen.put(value))
        client.when("access", opened.put)
        self.clients.append(await client.__aenter__())
        client.connection = (await opened.next()).connection
        return client, seen

    async def test_it_publishes_one_message_or_many(self):
        client, seen = await self.reader("api")
        async with Api(f"http://{ADDRESS}/", token=token(api=["publish"])) as api:
            self.assertEqual(await api.publish("api", {"n": "שלום"}), Published("api", 1))
            self.assertEqual(await api.publish("api", 0, exclude=[client.connection]), Published("api", 0))
            many = await api.publish_all([Outgoing("api", n) for n in range(300)] + [Outgoing("nobody", 1)])
            self.assertEqual([one.readers for one in many], [1] * 300 + [0])
            for bad in [("", 1), ("api", 1, (), "a key without a cluster")]:
                with self.assertRaises(ApiError) as caught:
                    await api.publish_all([Outgoing("api", "not published"), Outgoing(*bad)])
                self.assertEqual((caught.exception.status, caught.exception.code), (400, "bad_message"))
            with self.assertRaises(ApiError) as caught:
                await api.disconnect(subject="nobody")
            self.assertEqual((caught.exception.status, caught.exception.code), (403, "forbidden"))
        self.assertEqual([await seen.next() for _ in range(301)], [{"n": "שלום"}, *range(300)])
        async with Api(f"ws://{ADDRESS}", token=sign("wrong" * 9, exp=None, api=True), json=False) as api:
            with self.assertRaises(ApiError) as caught:
                await api.publish("api", "x")
            self.assertEqual(caught.exception.status, 401)

    async def test_it_lists_channels_and_their_subjects_over_all_pages(self):
        client = Philote(f"ws://{ADDRESS}/", token=token(read=["list:sub/ject ש"], may={"read": ["list:*"]}, sub="lister"))
        self.clients.append(await client.__aenter__())
        await asyncio.gather(*[client.join(f"list:{n:04}") for n in range(1000)])
        async with Api(f"http://{ADDRESS}", token=token(api=["channels", "subjects"])) as api:
            found = [one async for one in api.channels("list:")]
            self.assertEqual([one.channel for one in found], [f"list:{n:04}" for n in range(1000)] + ["list:sub/ject ש"])
            self.assertTrue(all(one.readers == 1 for one in found))
            one = await api.channel("list:sub/ject ש")
            self.assertEqual((one.channel, one.readers, one.subjects), ("list:sub/ject ש", 1, ["lister"]))
            self.assertEqual((await api.channel("list:none")).readers, 0)

    async def test_it_disconnects_and_bans(self):
        client, _ = await self.reader("ban", sub="mallory")
        other, _ = await self.reader("ban", sub="trent")
        waiting = Box()
        other.when("state", waiting.put)
        async with Api(f"http://{ADDRESS}", token=token(api=True)) as api:
            found = await api.disconnect(subject="mallory", refuse_for="1h")
            self.assertEqual(found.disconnected, 1)
            self.assertRegex(found.refused_until, r"^20\d\d-")
            self.assertEqual((await client.wait_closed()).code, 4403)
            self.assertEqual((await api.disconnect(connection=other.connection, reconnect=True)).disconnected, 1)
            self.assertEqual((await waiting.until(lambda one: one.state == "waiting")).code, 1012)


class Events(unittest.IsolatedAsyncioTestCase):
    """A server whose answers the test writes."""

    async def asyncSetUp(self):
        faulthandler.dump_traceback_later(DEADLINE, exit=True)
        self.requests, self.writers = Box(), []
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        self.before = asyncio.all_tasks() - {asyncio.current_task()}

    async def asyncTearDown(self):
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        await self.server.wait_closed()
        self.assertEqual(asyncio.all_tasks() - {asyncio.current_task()} - self.before, set(), "tasks were leaked")
        faulthandler.cancel_dump_traceback_later()

    async def _serve(self, reader, writer):
        self.writers.append(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        except asyncio.IncompleteReadError:
            return writer.close()
        writer.path = head[0].split(" ")[1]
        writer.headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        self.requests.put(writer)

    def begin(self, writer, status="200 OK", *headers):
        writer.write("\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *headers, "\r\n"]).encode())

    def tell(self, writer, *events):
        for event in events:
            writer.write((json.dumps(event) + "\n").encode())

    async def finish(self, writer):
        writer.close()
        await writer.wait_closed()

    async def test_a_stream_continues_after_faults_and_tells_what_is_missing(self):
        counted = []

        async def get():
            counted.append(1)
            return f"token{len(counted)}"

        async with Api(self.url, token=get, backoff=(0.001, 0.001)) as api:
            events = api.events(["room:*", "dm:17"])
            following = asyncio.ensure_future(events.__anext__())
            first = await self.requests.next()
            self.assertEqual(first.path, "/api/events?channel=room%3A%2A&channel=dm%3A17")
            self.assertEqual((first.headers["authorization"], first.headers.get("last-event-id")), ("bearer token1", None))
            self.begin(first)
            self.tell(first, {"event": "alive", "id": "e-0", "at": "2026-11-28T16:00:00Z"})
            self.assertEqual((await following).event, "alive")
            joined = {"event": "joined", "id": "e-3", "channel": "room:1", "subject": "ann", "new": [1]}
            # A line may arrive in any pieces.
            for byte in (json.dumps(joined) + "\n").encode():
                first.write(bytes([byte]))
                await first.drain()
            event = await events.__anext__()
            self.assertEqual((event.event, event.channel, event.subject, event.id), ("joined", "room:1", "ann", "e-3"))
            self.assertEqual(event.fields["new"], [1])
            self.tell(first, {"event": "alive", "id": "e-4"}, {"event": "ended", "reason": "restarting"})
            following = asyncio.ensure_future(events.__anext__())
            await self.finish(first)
            refused = await self.requests.next()
            self.assertEqual((refused.headers["last-event-id"], refused.headers["authorization"]), ("e-4", "bearer token2"))
            self.begin(refused, "503 Service Unavailable", "Retry-After: 0")
            await self.finish(refused)
            broken = await self.requests.next()
            self.begin(broken)
            broken.write(b"no JSON\n")
            await self.finish(broken)
            cut = await self.requests.next()
            cut.transport.abort()
            last = await self.requests.next()
            self.assertEqual(last.headers["last-event-id"], "e-4")
            self.begin(last)
            self.tell(last, {"event": "missed", "id": "f-0"}, {"event": "closed", "id": "f-1", "code": 1000, "reason": "x"})
            self.assertEqual((await following).event, "missed")
            closed = await events.__anext__()
            self.assertEqual((closed.code, closed.reason), (1000, "x"))
            await events.aclose()
            await self.finish(last)

    async def test_a_silent_stream_is_opened_again(self):
        with mock.patch("philote_client.api.SILENCE", 0.1):
            async with Api(self.url, token="a token", backoff=(0.001, 0.001)) as api:
                events = api.events(last="e-1")
                following = asyncio.ensure_future(events.__anext__())
                silent = await self.requests.next()
                self.begin(silent)
                second = await self.requests.next()
                self.assertEqual(second.headers["last-event-id"], "e-1")
                self.begin(second)
                self.tell(second, {"event": "opened", "id": "e-2", "connection": "x"})
                self.assertEqual((await following).connection, "x")
                await events.aclose()

    async def test_a_refusal_that_does_not_go_away_and_a_line_without_an_end_are_no_endless_loop(self):
        async with Api(self.url, token="a token", backoff=(0.001, 0.001)) as api:
            following = asyncio.ensure_future(api.events("room:1").__anext__())
            endless = await self.requests.next()
            self.assertEqual(endless.path, "/api/events?channel=room%3A1")
            self.begin(endless)
            endless.write(b"x" * 2_000_000)
            refused = await self.requests.next()
            body = b'{"error": "forbidden", "message": "this token may not"}'
            self.begin(refused, "403 Forbidden", f"Content-Length: {len(body)}")
            refused.write(body)
            with self.assertRaises(ApiError) as caught:
                await following
            self.assertEqual((caught.exception.status, caught.exception.message), (403, "this token may not"))

    async def test_a_server_that_is_not_there_is_an_error_of_httpx(self):
        async with Api("http://127.0.0.1:1", token="a token") as api:
            with self.assertRaises(httpx.ConnectError):
                await api.publish("chat", 1)
        with self.assertRaises(ValueError):
            Api("localhost:6380", token="a token")
