"""The client of packaging/python when its application, its server or its network fails: late, missing or duplicate answers."""

import asyncio
import contextlib
import io
import logging
from unittest import mock

from support import Box, ClientTest

from philote_client import Philote, _core, _link


class Questions:
    """A ``token`` whose calls arrive in ``asked``, each to be answered by the test."""

    def __init__(self):
        self.asked = Box()

    async def __call__(self):
        answer = asyncio.get_running_loop().create_future()
        self.asked.put(answer)
        return await answer


class Faults(ClientTest):
    async def start_asked(self, access=None, **options):
        """A client that was admitted with the token "first", and whose later calls the test answers."""
        questions = Questions()
        client = await self.start(token=questions, **options)
        (await questions.asked.next()).set_result("first")
        connection = await self.connections.next()
        self.assertEqual((await connection.next())["auth"], "first")
        await connection.access(**(access or {}))
        await client.reached("open")
        return client, connection, questions.asked

    async def settle(self, client, connection):
        """Everything that the server received so far."""
        publish, frames = client.publish("chat", "settled"), []
        while True:
            frame = await connection.next()
            if frame.get("data") == '"settled"':
                await connection.send({"ack": frame["ack"], "readers": 0})
                await publish
                return frames
            frames.append(frame)

    async def test_of_two_calls_of_token_only_the_newer_answer_is_sent(self):
        client, connection, asked = await self.start_asked()
        client.refresh()
        older = await asked.next()
        client.refresh()
        newer = await asked.next()
        self.assertTrue(older.cancelled(), "the older call ends")
        newer.set_result("newer")
        self.assertEqual(await connection.next(), {"auth": "newer"})
        await connection.access()
        self.assertEqual(await self.settle(client, connection), [])

    async def test_an_answer_from_before_a_cut_is_not_sent_after_it_and_one_during_a_connect_is(self):
        client, connection, asked = await self.start_asked()
        client.refresh()
        stale = await asked.next()
        connection.terminate()
        await client.reached("connecting")
        first = await asked.next()
        client.refresh()
        second = await asked.next()
        self.assertTrue(first.cancelled() and stale.cancelled())
        second.set_result("newer")
        following = await self.connections.next()
        self.assertEqual((await following.next())["auth"], "newer")
        await following.access()
        await client.reached("open")
        self.assertEqual(await self.settle(client, following), [])

    async def test_a_token_that_is_cancelled_from_within_is_called_again_later(self):
        client, connection, asked = await self.start_asked()
        with mock.patch.object(_link, "ASK_AGAIN", 0.01):
            client.refresh()
            (await asked.next()).cancel()
            self.assertEqual((await client.errors.next()).message, "no token: token() was cancelled")
            (await asked.next()).set_result("second")
        self.assertEqual(await connection.next(), {"auth": "second"})

    async def test_answers_to_two_tokens_are_matched_by_their_order(self):
        client, connection, asked = await self.start_asked({"ids": {"chat": "e-1"}, "max_message_size": 65536}, history=True)
        for token in ["second", "third"]:
            client.refresh()
            (await asked.next()).set_result(token)
            self.assertEqual((await connection.next())["auth"], token)
        ids = {"chat": "e-1", "second": "e-2"}
        await connection.access(read=["chat", "second"], ids=ids, max_message_size=65536)
        await connection.send({"error": "unauthorized", "message": "bad signature"})
        await client.errors.next()
        self.assertEqual(client.access.read, ["chat", "second"])
        # The last accepted token is in force, with which a handler asks for the history.
        client.on("second", lambda *_: None)
        self.assertEqual(await connection.next(), {"auth": "second", "since": {"second": None}})
        await connection.access(read=["chat", "second"], ids=ids, max_message_size=65536)
        await connection.access(read=["chat", "second"], ids=ids, max_message_size=65536)  # twice
        self.assertEqual(await self.settle(client, connection), [])

    async def test_a_token_that_never_answers_is_called_again_connected_or_not(self):
        client, connection, asked = await self.start_asked()
        with mock.patch.object(_core, "PATIENCE", 0.1), mock.patch.object(_link, "PATIENCE", 0.1), mock.patch.object(
            _link, "ASK_AGAIN", 0.01
        ):
            client.refresh()
            never = await asked.next()
            self.assertEqual((await client.errors.next()).message, "no token: token() did not answer within 0.1 s")
            following = await asked.next()
            self.assertTrue(never.cancelled())
            following.set_result("next")
            self.assertEqual((await connection.next())["auth"], "next")
            # A server that never answers the token does not end the attempts either.
            (await asked.next()).set_result("again")
            self.assertEqual((await connection.next())["auth"], "again")
            connection.terminate()
            await client.reached("waiting")
            await asked.next()
            self.assertEqual((await client.reached("waiting")).reason, "no token: token() did not answer within 0.1 s")
            (await asked.next()).set_result("at last")
            second = await self.connections.next()
            self.assertEqual((await second.next())["auth"], "at last")
            # Nor does one that never answers the first.
            self.assertEqual((await client.reached("waiting")).reason, "the connection took too long")

    async def test_the_result_of_token_is_checked_and_white_space_and_bearer_are_removed(self):
        class Other:
            pass

        bad = [(None, "None"), (b"secret", "bytes"), ({"token": "secret"}, "dict"), (7, "int"), (Other(), "Other")]
        bad = [(given, f"no token: token() returned {what}, not a str") for given, what in bad]
        bad += [(empty, "no token: token() returned an empty string") for empty in ["", " \n", "Bearer", "bearer  "]]
        good = ["a.b.c\n", " a.b.c", "\ufeffa.b.c\r\n", "Bearer a.b.c", "bearer\ta.b.c ", "BEARER  a.b.c"]
        client, connection, asked = await self.start_asked()
        for given, sentence in bad:
            client.refresh()
            (await asked.next()).set_result(given)
            self.assertEqual((await client.errors.next()).message, sentence)
        for given in good:
            client.refresh()
            (await asked.next()).set_result(given)
            self.assertEqual(await connection.next(), {"auth": "a.b.c"})
            await connection.access()
        # The same checks apply before a connection.
        connection.terminate()
        await client.reached("waiting")
        for given, sentence in bad:
            (await asked.next()).set_result(given)
            self.assertEqual((await client.reached("waiting")).reason, sentence)

    async def test_a_handler_of_a_channel_that_the_token_does_not_read_is_reported_once_after_access(self):
        client = await self.start()
        order = []
        client.when("access", lambda _: order.append("access"))
        client.when("error", lambda one: order.append((one.error, one.channel)))
        end = client.on("chta", lambda *_: None)
        connection = await self.connections.next()
        await connection.next()
        await connection.access()
        error = await client.errors.next()
        self.assertEqual((error.error, error.message), ("forbidden", 'this token may not read channel "chta"'))
        self.assertEqual(order, ["access", ("forbidden", "chta")])
        client.refresh()
        await connection.next()
        await connection.access()
        client.on("latre", lambda *_: None)
        self.assertEqual((await client.errors.next()).channel, "latre")
        end()
        client.on("chta", lambda *_: None)
        self.assertEqual((await client.errors.next()).channel, "chta", "again, because the handler was removed in between")
        client.on("room", lambda *_: None)
        client.refresh()
        await connection.next()
        await connection.access(read=["chat", "room"])
        await connection.say("1")
        await client.values.next()
        self.assertEqual(order[-1], "access")

    async def test_an_invalid_message_ends_neither_the_connection_nor_the_process(self):
        client, connection = await self.both()
        for text in ["no JSON", "null", "7", "", "[]", "[" * 50_000, b"\xff", b"{}"]:
            await connection.socket.send(text)
            self.assertEqual((await client.errors.next()).error, "bad_message")
        await connection.send({"ack": "77", "readers": 1})
        await connection.send({"ack": ["77"]})
        await connection.send({"ack": "seventy"})
        await connection.send({"error": "forbidden", "message": "for none", "ack": "77"})
        await client.errors.next()
        broken = [
            {"access": 7}, {"access": {}}, {"access": {"connection": "x", "read": None, "write": []}}, {"presence": []},
            {"joined": 7}, {"joined": {"x": 7}}, {"left": None}, {"channel": "chat"},
            {"channel": "chat", "issuer": "x", "data": {}}, {"presence": {"channel": "chat"}},
        ]  # fmt: skip
        for frame in broken:
            await connection.send(frame)
        await connection.say("1")
        while (await self.next_value(client)) != 1:
            pass
        self.assertEqual((client.state.state, self.count), ("open", 1))
        self.assertEqual({one["message"] for one in self.mistakes.all()}, {"philote_client: an exception in a frame of the server"})

    async def test_a_handler_that_waits_for_the_history_does_not_send_a_refused_token_repeatedly(self):
        access = {"ids": {"chat": "e-7"}, "max_message_size": 65536}
        client, connection, asked = await self.start_asked(access, history=True)
        client.on("chat", lambda *_: None)
        self.assertEqual(await connection.next(), {"auth": "first", "since": {"chat": None}})
        await connection.send({"error": "unauthorized", "message": "the token has expired"})
        await client.errors.next()
        (await asked.next()).set_result("second")
        self.assertEqual(await connection.next(), {"auth": "second", "since": {"chat": None}}, "this must be the next frame")

    async def test_a_handler_that_waited_for_a_discarded_history_gets_new_messages_and_a_possible_gap_is_reported(self):
        access = {"ids": {"chat": "e-7"}, "max_message_size": 65536}
        client, connection, _ = await self.start_asked(access, history=True)
        late = Box()
        client.on("chat", lambda value, _: late.put(value))
        await connection.next()
        await connection.say('"skipped"', id="e-8")
        await connection.access(max_message_size=65536)
        await connection.say('"heard"')
        self.assertEqual(await late.next(), "heard")
        self.assertEqual(client.recovered, [("chat", False)])
        self.assertEqual(await self.next_value(client), "skipped")

    async def test_a_url_or_an_option_that_cannot_work_is_refused_and_not_quoted(self):
        secret = "?auth=secret"
        urls = [
            "no address", "", "//host/", "ws://", "ws://host:99999/", "ws://[::1/", "ws:host", "localhost:6380" + secret,
            "ftp://x/" + secret, "file:///x", "javascript:1", "ws://h/#x", "ws://h/#", "https://h/" + secret + "#x",
        ]  # fmt: skip
        for url in urls:
            with self.assertRaises(ValueError, msg=url) as caught:
                Philote(url, token=lambda: "")
            self.assertNotIn("secret", str(caught.exception))
        for url in (None, 7, b"ws://h/"):
            with self.assertRaises(TypeError):
                Philote(url, token=lambda: "")
        options = [
            {"token": "a token"}, {"backoff": (1,)}, {"backoff": (float("nan"), 1)}, {"probe": -1}, {"queue": -1},
            {"backlog": 0}, {"queue": "many"},
        ]  # fmt: skip
        for one in options:
            with self.assertRaises((TypeError, ValueError), msg=one):
                Philote("ws://h/", **{"token": lambda: "", **one})
        client = Philote("ws://h/", token=lambda: "")
        with self.assertRaisesRegex(ValueError, "state, access"):
            client.when("stat", print)

    async def test_other_forms_of_a_url_work(self):
        for url in [self.url.replace("ws:", "HTTP:"), f" {self.url} ", self.url.rstrip("/")]:
            await self.start(url)
            await (await self.connections.next()).next()

    async def test_no_log_of_any_level_has_a_token(self):
        output = io.StringIO()
        handler = logging.StreamHandler(output)
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0
        try:
            with contextlib.redirect_stderr(output):
                token = "header.claims.sig" + "nature" * 9

                async def slowly():
                    await asyncio.sleep(0)
                    return token

                client, connection = await self.both(token=slowly)
                client.refresh()
                await connection.next()
                await connection.access()
                await connection.close(4401)
                await client.reached("waiting")
                print(repr(client), repr(client._core), client._core.channels, asyncio.all_tasks(), file=output)
                await client.__aexit__(None, None, None)
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
            loop.set_debug(False)
        written = output.getvalue().splitlines()
        leaks = [line for line in written if "header.claims" in line or "nature" in line]
        self.assertGreater(len(written), 10, "something was logged")
        self.assertEqual(leaks, [])

    async def test_a_redirect_is_not_followed(self):
        """The token would go to a server that nobody has named."""

        async def redirect(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 307 Elsewhere\r\nLocation: {self.url}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(redirect, "127.0.0.1", 0)
        async with server:
            client = await self.start(url=f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
            for _ in range(2):
                state = await client.reached("waiting")
                self.assertIn("307", state.reason)
            self.assertEqual(self.count, 0)
            client.close()
