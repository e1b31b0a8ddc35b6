"""The client of packaging/python against a server that a test scripts."""

import asyncio
from datetime import datetime, timedelta, timezone
from unittest import mock

from support import Box, ClientTest

from philote_client import Philote, PhiloteError


class Basics(ClientTest):
    async def test_the_token_is_in_the_first_frame_and_values_are_sent_and_received(self):
        client = await self.start()
        connection = await self.connections.next()
        self.assertEqual(connection.socket.subprotocol, "philote.v1")
        self.assertEqual(connection.socket.request.path, "/")
        self.assertEqual(await connection.next(), {"auth": "a token"})
        early = client.publish("chat", {"text": "שלום", "list": [1, None]})
        await connection.access(subject="alice")
        await client.reached("open")
        self.assertEqual((client.access.connection, client.access.subject), (connection.id, "alice"))
        frame = await connection.next()
        self.assertEqual(frame, {"channel": "chat", "data": '{"text":"שלום","list":[1,null]}', "ack": "1"})
        await connection.send({"ack": frame["ack"], "readers": 3})
        self.assertEqual(await early, 3)
        await connection.say("[1,2]", subject="bob", id="e-1")
        value, message = await client.values.next()
        self.assertEqual(value, [1, 2])
        self.assertEqual(
            (message.value, message.data, message.channel, message.issuer, message.subject, message.id),
            ([1, 2], "[1,2]", "chat", "other", "bob", "e-1"),
        )
        await connection.send({"issuer": "other", "channel": "chat"})
        self.assertIsNone(await self.next_value(client))
        self.assertEqual(client.recovered, [], "no message can be missed before the first connection")

    async def test_data_that_is_no_json_arrives_as_text(self):
        client, connection = await self.both()
        texts = ["no JSON", "", "NaN", "-Infinity", "[" * 50_000, "9" * 5_000, "\ufeff1", '"\ud800'.encode("utf-8", "replace").decode()]
        for text in texts:
            await connection.say(text)
            self.assertEqual(await self.next_value(client), text)

    async def test_values_that_cannot_be_sent_are_rejected_and_others_are_not_affected(self):
        client, connection = await self.both()
        deep = []
        for _ in range(100_000):
            deep = [deep]
        for value in [float("nan"), object(), {1, 2}, b"bytes", "\ud800", deep]:
            self.assertEqual(await self.code_of(client.publish("chat", value)), "bad_message")
        client.publish("chat", 7)
        self.assertEqual((await connection.next())["data"], "7")
        while deep:  # or its destruction overflows the stack of older interpreters
            deep = deep[0]

    async def test_json_false_sends_texts_unchanged_and_accepts_nothing_else(self):
        client, connection = await self.both(json=False)
        await connection.say("[1,2]")
        self.assertEqual(await self.next_value(client), "[1,2]")
        client.publish("chat", "{}")
        self.assertEqual((await connection.next())["data"], "{}")
        self.assertEqual(await self.code_of(client.publish("chat", 7)), "bad_message")

    async def test_a_handler_can_be_removed_and_each_event_reaches_all_of_its_handlers(self):
        client, connection = await self.both()
        seen = []
        end = client.on("chat", lambda value, _: seen.append(("chat", value)))
        client.when("message", lambda message: seen.append((message.channel, message.data)))
        await connection.say("1")
        await client.values.next()
        end()
        end()
        await connection.say("2")
        await client.values.next()
        await connection.say('"x"', channel="other")
        await connection.say("3")
        await client.values.next()
        self.assertEqual(seen, [("chat", "1"), ("chat", 1), ("chat", "2"), ("other", '"x"'), ("chat", "3")])

    async def test_a_refused_publish_is_rejected_with_the_servers_sentence_and_others_are_not_affected(self):
        client, connection = await self.both()
        publishes = [client.publish(channel, 1) for channel in ["chat", "x", "chat"]]
        first, _, third = [await connection.next() for _ in range(3)]
        await connection.send({"ack": first["ack"], "readers": 1})
        await connection.send({"error": "forbidden", "channel": "x", "message": "this token may not write"})
        await connection.send({"ack": third["ack"], "readers": 2})
        self.assertEqual(await publishes[0], 1)
        with self.assertRaisesRegex(PhiloteError, "may not write") as caught:
            await publishes[1]
        self.assertEqual(caught.exception.code, "forbidden")
        self.assertEqual(await publishes[2], 2)
        self.assertEqual((await client.errors.next()).error, "forbidden")

    async def test_unanswered_publishes_may_have_been_delivered_and_unsent_ones_wait_in_order(self):
        client, connection = await self.both()
        sent = client.publish("chat", 0)
        await connection.next()
        await connection.close(1012, "the server asks for a new connection; reconnect")
        state = await client.reached("waiting")
        self.assertEqual((state.code, state.reason), (1012, "the server asks for a new connection; reconnect"))
        self.assertLessEqual(state.retry_in, 0.001)
        self.assertEqual(await self.code_of(sent), "unanswered")
        later = [client.publish("chat", n) for n in [1, 2, 3]]
        second = await self.connections.next()
        await second.next()
        await second.access()
        for n in [1, 2, 3]:
            frame = await second.next()
            self.assertEqual(frame["data"], str(n))
            await second.send({"ack": frame["ack"], "readers": n})
        self.assertEqual(await asyncio.gather(*later), [1, 2, 3])

    async def test_at_most_queue_publishes_wait_sent_or_not(self):
        client, connection = await self.both(queue=2)
        first = client.publish("chat", 1)
        client.publish("chat", 2)
        self.assertEqual(await self.code_of(client.publish("chat", 3)), "queue_full")
        await connection.send({"ack": (await connection.next())["ack"], "readers": 0})
        await first
        client.publish("chat", 4)
        await connection.next()
        self.assertEqual((await connection.next())["data"], "4")

    async def test_a_publish_that_is_cancelled_before_it_is_sent_is_taken_back(self):
        client = await self.start(queue=3)
        publishes = [client.publish("chat", n) for n in range(3)]
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(publishes[1], 0.001)
        publishes.append(client.publish("chat", 3))
        connection = await self.connections.next()
        await connection.next()
        await connection.access()
        frames = [await connection.next() for _ in range(3)]
        self.assertEqual([frame["data"] for frame in frames], ["0", "2", "3"])
        publishes[0].cancel()  # too late: it is sent, and its answer is ignored
        for frame in frames:
            await connection.send({"ack": frame["ack"], "readers": int(frame["ack"])})
        self.assertEqual([await publishes[2], await publishes[3]], [3, 4])

    async def test_4401_requests_a_new_token_and_a_failed_request_is_repeated(self):
        tokens = ["first", OSError("the login has ended"), "second"]

        async def token():
            one = tokens.pop(0)
            if isinstance(one, Exception):
                raise one
            return one

        client, connection = await self.both(token=token)
        await connection.close(4401, "the token has expired; get a new one")
        self.assertEqual((await client.reached("waiting")).code, 4401)
        self.assertEqual((await client.reached("waiting")).reason, "no token: the login has ended")
        self.assertEqual((await client.errors.next()).error, "token")
        self.assertEqual((await (await self.connections.next()).next())["auth"], "second")

    async def test_4403_ends_the_client_permanently(self):
        client, connection = await self.both()
        publish, join = client.publish("chat", 1), client.join("room")
        messages = client.messages("chat")
        await connection.close(4403, "disconnected by an administrator")
        state = await client.wait_closed()
        self.assertEqual((state.state, state.code, state.reason), ("closed", 4403, "disconnected by an administrator"))
        self.assertEqual(await client.wait_closed(), state)
        for future in (publish, client.publish("chat", 2), client.join("room"), messages.__anext__()):
            self.assertEqual(await self.code_of(future), "closed")
        await self.code_of(join)
        # A later client is started and ended in more time than this one would have waited.
        other, second = await self.both()
        await second.close(4403)
        await other.wait_closed()
        self.assertEqual(self.count, 2)

    async def test_close_ends_the_connection_waiting_publishes_and_iterations(self):
        client, connection = await self.both()
        publish = client.publish("chat", 1)
        messages = client.messages("chat")
        client.close()
        client.close()
        self.assertEqual((await client.reached("closed")).code, 1000)
        self.assertEqual(await self.code_of(publish), "closed")
        self.assertEqual([message async for message in messages], [])
        await connection.socket.wait_closed()
        self.assertEqual(connection.socket.close_code, 1000)
        with self.assertRaises(RuntimeError):
            await client.__aenter__()

    async def test_a_client_can_be_closed_in_each_state_and_by_its_own_handlers(self):
        for state in ["connecting", "waiting", "open"]:
            client = Philote(self.url, token=lambda: "a token", backoff=(60, 60))
            client.when("state", lambda one, client=client, state=state: one.state == state and client.close())
            async with client:
                if state != "connecting":
                    connection = await self.connections.next()
                    await connection.next()
                    await (connection.access() if state == "open" else connection.close(1011))
                self.assertEqual((await client.wait_closed()).code, 1000, state)

    async def test_an_exception_or_a_cancellation_in_the_block_closes_the_client(self):
        async def converse():
            async with Philote(self.url, token=lambda: "a token") as client:
                client.publish("chat", 1)
                await client.messages("chat").__anext__()

        task = asyncio.ensure_future(converse())
        connection = await self.connections.next()
        await connection.next()
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        await connection.socket.wait_closed()
        with self.assertRaises(ZeroDivisionError):
            async with Philote(self.url, token=lambda: "a token"):
                raise ZeroDivisionError


class Tokens(ClientTest):
    async def test_a_token_is_replaced_before_it_expires_on_the_same_connection_and_a_refused_one_by_another(self):
        tokens = ["first", "bad", "third"]
        client = await self.start(token=lambda: tokens.pop(0))
        connection = await self.connections.next()
        await connection.next()
        expires = datetime.now(timezone.utc) + timedelta(seconds=1)
        await connection.access(expires_at=expires.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
        await client.reached("open")
        self.assertLess(abs(client.access.expires_at - expires), timedelta(seconds=1))
        self.assertEqual(await connection.next(), {"auth": "bad"})
        await connection.send({"error": "unauthorized", "message": "the token has a bad signature"})
        self.assertEqual((await client.errors.next()).message, "the token has a bad signature")
        self.assertEqual(await connection.next(), {"auth": "third"})
        self.assertEqual(self.count, 1)

    async def test_refresh_sends_a_new_token_on_the_open_connection_or_as_soon_as_it_is_open(self):
        asked = []
        client = await self.start(token=lambda: asked.append(1) or f"token {len(asked)}")
        connection = await self.connections.next()
        self.assertEqual(await connection.next(), {"auth": "token 1"})
        client.refresh()
        await connection.access()
        self.assertEqual(await connection.next(), {"auth": "token 2"})
        await connection.access(read=["chat", "second"])
        await connection.say("1")
        await client.values.next()
        self.assertEqual(client.access.read, ["chat", "second"])
        client.refresh()
        self.assertEqual(await connection.next(), {"auth": "token 3"})
        self.assertEqual((self.count, client.recovered), (1, []))


class Recovery(ClientTest):
    async def test_the_client_reconnects_with_its_last_ids_and_reports_for_each_channel_whether_it_recovered(self):
        ids = {"chat": "e-1", "lost": "e-6", "silent": "e-0", "taken": "e-0"}
        client, connection = await self.both({"read": list(ids), "ids": ids})
        await connection.say("2", id="e-2")
        await connection.say("3", channel="lost", id="e-7")
        await connection.say("4")
        await client.values.next()
        await client.values.next()
        connection.terminate()
        self.assertIn("lost", (await client.reached("waiting")).reason)
        second = await self.connections.next()
        self.assertEqual(
            await second.next(),
            {"auth": "a token", "since": {"chat": "e-2", "lost": "e-7", "silent": "e-0", "taken": "e-0"}},
        )
        await second.access(
            read=["chat", "lost", "silent", "new"],
            recovered={"chat": True, "lost": False, "silent": True},
            ids={"chat": "e-2", "lost": "f-9", "silent": "e-0", "new": "e-5"},
        )
        await client.reached("open")
        # The history delivers what this client published on its first connection like any other message.
        await second.say("5", id="e-3", issuer=connection.id)
        await second.say("6", id="e-4")
        self.assertEqual(await self.next_value(client), 6)
        self.assertEqual(client.recovered, [("chat", True), ("lost", False), ("silent", True)])
        second.terminate()
        third = await self.connections.next()
        self.assertEqual((await third.next())["since"], {"chat": "e-4", "lost": "f-9", "silent": "e-0", "new": "e-5"})

    async def test_without_a_history_there_are_no_ids_and_possible_gaps_are_reported(self):
        ids = {"chat": "e-1", "other": "e-2"}
        client, connection = await self.both({"read": list(ids), "ids": ids})
        connection.terminate()
        second = await self.connections.next()
        self.assertEqual((await second.next())["since"], ids)
        await second.access(read=list(ids), recovered={"chat": False, "other": False})
        await client.reached("open")
        second.terminate()
        third = await self.connections.next()
        self.assertEqual((await third.next())["since"], {"chat": None, "other": None})
        await third.access(read=list(ids))
        await client.reached("open")
        await third.say("1")
        await client.values.next()
        self.assertEqual(client.recovered, [("chat", False), ("other", False)] * 2)

    async def test_a_channel_that_is_joined_later_has_an_id_too_and_one_that_is_left_has_none(self):
        client, connection = await self.both({"ids": {"chat": "e-1"}})
        await connection.say("2", id="e-2")
        for access in [
            {"read": ["chat", "room"], "ids": {"room": "e-7"}},
            {"read": ["room"]},
            {"read": ["chat", "room"], "ids": {"chat": "e-5"}},
        ]:
            client.refresh()
            await connection.next()
            await connection.access(**access)
        await connection.say("6")
        await client.values.next()
        await client.values.next()
        connection.terminate()
        self.assertEqual((await (await self.connections.next()).next())["since"], {"chat": "e-5", "room": "e-7"})

    async def test_the_clients_own_messages_advance_its_id_if_the_channel_has_one(self):
        client, connection = await self.both({"write": ["chat", "other"], "ids": {"chat": "e-1"}})

        async def said(connection, channel, id):
            publish = client.publish(channel, 1)
            await connection.send({"ack": (await connection.next())["ack"], "readers": 0, "id": id})
            await publish

        await said(connection, "chat", "e-9")
        await said(connection, "other", "e-3")
        await said(connection, "chat", None)
        connection.terminate()
        second = await self.connections.next()
        self.assertEqual((await second.next())["since"], {"chat": "e-9"})
        await second.access(write=["chat", "other"], recovered={"chat": True}, ids={"chat": "e-9"})
        await client.reached("open")
        await second.say("10", id="e-10")
        await client.values.next()
        await said(second, "chat", "e-8")
        second.terminate()
        self.assertEqual((await (await self.connections.next()).next())["since"], {"chat": "e-10"})

    async def test_ids_that_make_the_first_frame_too_large_are_dropped_which_is_reported(self):
        client, connection = await self.both()
        await connection.say("1", id="e-1")
        await client.values.next()
        connection.terminate()
        second = await self.connections.next()
        self.assertEqual((await second.next())["since"], {"chat": "e-1"})
        await second.close(1009, "a message is over this server's max_message_size")
        third = await self.connections.next()
        self.assertEqual(await third.next(), {"auth": "a token"})
        await third.access()
        await third.say("2")
        await client.values.next()
        self.assertEqual(client.recovered, [("chat", False)])

    async def test_history_delivers_the_whole_history_at_the_first_connection_and_when_a_channel_is_joined(self):
        client = await self.start(history=True)
        connection = await self.connections.next()
        self.assertEqual(await connection.next(), {"auth": "a token", "since": {"chat": None}})
        await connection.access()
        await client.reached("open")
        client.on("second", lambda *_: None)
        client.refresh()
        self.assertEqual(await connection.next(), {"auth": "a token", "since": {"second": None}})
        await connection.access(read=["chat", "second"])
        await connection.say("1")
        await client.values.next()
        client.refresh()
        self.assertEqual(await connection.next(), {"auth": "a token"})
        self.assertEqual(client.recovered, [])

    async def test_an_iteration_gets_the_history_like_a_handler(self):
        access = {"ids": {"chat": "e-7"}, "max_message_size": 65536}
        client, connection = await self.both(access, history=True)
        messages = client.messages("chat")
        self.assertEqual(await connection.next(), {"auth": "a token", "since": {"chat": None}})
        await connection.access(ids={"chat": "e-5"}, max_message_size=65536)
        for n in [6, 7, 8]:
            await connection.say(str(n), id=f"e-{n}")
        self.assertEqual([(await messages.__anext__()).value for _ in range(3)], [6, 7, 8])
        self.assertEqual(await self.next_value(client), 8, "a handler that had them gets nothing twice")


class Waits(ClientTest):
    async def test_waits_are_random_in_a_range_that_doubles_up_to_the_maximum(self):
        with mock.patch("random.random", lambda: 0.5):
            client = await self.start(backoff=(0.004, 0.016))
            waits = []
            while len(waits) < 5:
                await (await self.connections.next()).close(1011, "internal server error; reconnect")
                waits.append((await client.reached("waiting")).retry_in)
            self.assertEqual(waits, [0.002, 0.004, 0.008, 0.008, 0.008])
            last = await self.connections.next()
        with mock.patch("random.random", lambda: 0.25):
            await last.close(1013, "the server is full")
            self.assertEqual((await client.reached("waiting")).retry_in, 0.004)

    async def test_full_and_too_fast_wait_longer_at_first_and_waiting_never_overflows(self):
        with mock.patch("random.random", lambda: 0.001):
            client = await self.start(backoff=(1, 30))
            await (await self.connections.next()).close(4429, "publishing too fast")
            self.assertEqual((await client.reached("waiting")).retry_in, 0.008)
            client._core._attempt = 100_000
            await (await self.connections.next()).close(1011)
            self.assertEqual((await client.reached("waiting")).retry_in, 0.03)

    async def test_a_server_that_is_not_there_is_tried_again(self):
        client = await self.start("ws://127.0.0.1:1/")
        for _ in range(3):
            state = await client.reached("waiting")
            self.assertEqual((state.code, state.reason[:15]), (1006, "cannot connect:"))

    async def test_connections_that_ended_leave_no_tasks(self):
        client, connection = await self.both(probe=15)
        counts = []
        for _ in range(5):
            connection.terminate()
            connection = await self.connections.next()
            await connection.next()
            await connection.access()
            await client.reached("open")
            await connection.say("1")
            await client.values.next()
            counts.append(len([task for task in self.tasks() if "Link." in repr(task)]))
        self.assertEqual(counts, [counts[0]] * 5)

    async def test_a_silent_server_is_probed_and_disconnected_if_it_does_not_answer(self):
        asked = []
        client, connection = await self.both(probe=0.2, token=lambda: asked.append(1) or f"token {len(asked)}")
        # It answers pings by itself, so nothing happens.
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(client.reached("waiting"), 1)
        self.assertTrue(connection.frames.empty(), "the probe needs no frame and no token")
        connection.socket.transport.pause_reading()
        self.assertEqual((await client.reached("waiting")).reason, "no answer from the server")
        self.assertEqual((await (await self.connections.next()).next())["auth"], "token 2")
        connection.terminate()

    async def test_a_busy_process_does_not_take_a_server_for_dead(self):
        import time

        client, connection = await self.both(probe=0.3)
        for _ in range(3):
            time.sleep(0.6)  # longer than the limit: the loop, and the server in it, cannot run
            await connection.say("1")
            await client.values.next()
        self.assertEqual((client.state.state, self.count), ("open", 1))

    async def test_a_slow_application_does_not_take_a_server_for_dead(self):
        import time

        client, connection = await self.both(probe=0.3)
        handled = Box()

        async def handle(value, message):
            time.sleep(0.01)
            handled.put(value)

        client.on("chat", handle)
        # They arrive at once. Handling them takes longer than the limit, and so long nothing more is read.
        await asyncio.gather(*(connection.say(str(n)) for n in range(100)))
        for n in range(100):
            self.assertEqual(await asyncio.wait_for(handled.next(), 10), n)
        self.assertEqual((client.state.state, self.count), ("open", 1))

    async def test_each_byte_is_a_sign_of_life(self):
        client, connection = await self.both(probe=0.4)
        # A large message that takes longer than the limit: pongs wait behind it.
        text = json_frame("x" * 500)
        head = bytes([0x81, 126]) + len(text).to_bytes(2, "big")
        transport = connection.socket.transport
        for byte in head:
            transport.write(bytes([byte]))
        with mock.patch.object(type(connection.socket.protocol), "send_pong", lambda *_: None):
            for at in range(0, len(text), 10):
                transport.write(text[at : at + 10])
                await asyncio.sleep(0.04)
        self.assertEqual(await self.next_value(client), "x" * 500)
        self.assertEqual(self.count, 1)


def json_frame(data):
    return ('{"issuer":"other","channel":"chat","data":"\\"%s\\""}' % data).encode()


