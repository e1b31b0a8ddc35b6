"""The client of packaging/python respects the rates and sizes of a server that a test scripts."""

import asyncio

from support import ClientTest


class Limits(ClientTest):
    async def test_a_message_over_the_rate_is_sent_again_in_order_at_the_rate_in_the_rejection(self):
        client, connection = await self.both()
        answers = [client.publish("chat", n) for n in [1, 2, 3]]
        acks = [(await connection.next())["ack"] for _ in range(3)]
        for ack in [acks[1], acks[2], acks[0]]:
            await connection.send({"error": "rate_limited", "message": "too fast", "ack": ack, "messages_per_second": 2})
        began = asyncio.get_running_loop().time()
        for at, ack in enumerate(acks):
            frame = await connection.next()
            self.assertEqual((frame["ack"], frame["data"]), (ack, str(at + 1)))
            await connection.send({"ack": ack, "readers": at})
            await connection.send({"ack": ack, "readers": 99})  # twice
        self.assertEqual(await asyncio.gather(*answers), [0, 1, 2])
        self.assertGreater(asyncio.get_running_loop().time() - began, 1.5, "not at once")
        await connection.send({"error": "bad_message", "message": "the first that is told"})
        self.assertEqual((await client.errors.next()).error, "bad_message")

    async def test_4429_loses_no_unanswered_message(self):
        client, connection = await self.both()
        answers = [client.publish("chat", n) for n in [1, 2, 3]]
        await connection.send({"ack": (await connection.next())["ack"], "readers": 1})
        await answers[0]
        await connection.close(4429, "publishing too fast")
        second = await self.connections.next()
        await second.next()
        await second.access()
        for data in ["2", "3"]:
            frame = await second.next()
            self.assertEqual(frame["data"], data)
            await second.send({"ack": frame["ack"], "readers": 1})
        self.assertEqual(await asyncio.gather(*answers), [1, 1, 1])

    async def test_a_message_that_was_too_large_is_found_and_the_others_are_sent_again(self):
        client, connection = await self.both({"max_message_size": 1000})
        answers = [client.publish("chat", "x" * size) for size in [1, 700, 2]]
        self.assertEqual(await self.code_of(client.publish("chat", "é" * 500)), "message_too_big")
        await connection.close(1009, "a message is over this server's max_message_size")
        second = await self.connections.next()
        await second.next()
        await second.access(max_message_size=600)
        for size in [1, 2]:
            frame = await second.next()
            self.assertEqual(len(frame["data"]), size + 2)
            await second.send({"ack": frame["ack"], "readers": size})
        self.assertEqual((await answers[0], await answers[2]), (1, 2))
        self.assertEqual(await self.code_of(answers[1]), "message_too_big")

    async def test_a_token_over_the_rate_is_sent_again_and_does_not_count_as_a_publish(self):
        client, connection = await self.both()
        publish = client.publish("chat", 1)
        ack = (await connection.next())["ack"]
        client.refresh()
        await connection.next()
        await connection.send({"error": "rate_limited", "message": "too fast"})
        self.assertEqual(await connection.next(), {"auth": "a token"})
        await connection.access()
        await connection.send({"error": "rate_limited", "message": "a pong was too fast"})
        await connection.send({"ack": ack, "readers": 5})
        self.assertEqual(await publish, 5)

    async def test_a_server_that_reports_no_limits_gets_everything_at_once(self):
        client, connection = await self.both()
        answers = [client.publish("chat", n if n % 2 else "x" * 100_000) for n in range(300)]
        for n in range(300):
            await connection.send({"ack": (await connection.next())["ack"], "readers": n})
        self.assertEqual(await asyncio.gather(*answers), list(range(300)))

    async def test_unacknowledged_messages_and_bytes_never_exceed_a_second_of_the_rate(self):
        client, connection = await self.both({"max_message_size": 65536, "messages_per_second": 5, "bytes_per_second": 1000})
        answers = [client.publish("chat", "x" * 150) for n in range(8)]
        sent = [await connection.next() for _ in range(4)]  # of five one is for a pong
        await asyncio.sleep(1.5)
        self.assertTrue(connection.frames.empty(), "nothing was answered")
        for frame in sent:
            await connection.send({"ack": frame["ack"], "readers": 0})
        for _ in range(4):
            await connection.send({"ack": (await connection.next())["ack"], "readers": 0})
        await asyncio.gather(*answers)
