// The client of packaging/npm against a server that a test scripts.

import assert from "node:assert/strict";
import { once } from "node:events";
import test from "node:test";
import { Philote } from "../../packaging/npm/philote.js";
import { DEADLINE, Inbox, startBoth, startClient, startServer } from "./fake_server.mjs";

test("the token is in the first frame, and values are sent and received", DEADLINE, async (t) => {
  const server = await startServer(t);
  const { client, heard, reached } = startClient(t, server.url);
  const connection = await server.next();
  assert.equal(connection.socket.protocol, "philote.v1");
  assert.equal(connection.request.url, "/");
  assert.deepEqual(await connection.next(), { auth: "a token" });
  const early = client.publish("chat", { text: "shalom", list: [1, null] });
  connection.access({ subject: "alice" });
  await reached("open");
  assert.deepEqual(client.access, {
    connection: connection.id, subject: "alice", read: ["chat"], write: ["chat"], expires_at: null,
  });

  const { ack, ...frame } = await connection.next();
  assert.deepEqual(frame, { channel: "chat", data: '{"text":"shalom","list":[1,null]}' });
  connection.send({ ack, readers: 3 });
  assert.equal(await early, 3);

  connection.say("[1,2]", { subject: "bob", id: "e-1" });
  assert.deepEqual(await heard.values.next(), {
    value: [1, 2],
    message: { issuer: "other", channel: "chat", data: "[1,2]", subject: "bob", id: "e-1" },
  });
  connection.say("no JSON");
  assert.equal((await heard.values.next()).value, "no JSON");
  assert.deepEqual(heard.recovered, [], "no message can be missed before the first connection");
});

test("json: false sends texts unchanged, and accepts nothing else", DEADLINE, async (t) => {
  const { client, heard, connection } = await startBoth(t, { json: false });
  connection.say("[1,2]");
  assert.equal((await heard.values.next()).value, "[1,2]");
  client.publish("chat", "{}");
  assert.equal((await connection.next()).data, "{}");
  await assert.rejects(client.publish("chat", 7), { code: "bad_message" });
});

test("a handler can be removed, and each event reaches all of its handlers", DEADLINE, async (t) => {
  const { client, heard, connection } = await startBoth(t);
  const seen = [];
  const end = client.on("chat", (value) => seen.push(["chat", value]));
  client.when("message", ({ channel, data }) => seen.push([channel, data]));
  connection.say("1");
  await heard.values.next();
  end();
  connection.say("2");
  await heard.values.next();
  connection.say('"x"', { channel: "other" });
  connection.say("3");
  await heard.values.next();
  assert.deepEqual(seen, [["chat", "1"], ["chat", 1], ["chat", "2"], ["other", '"x"'], ["chat", "3"]]);
});

test("a refused publish is rejected with the server's sentence, and others are not affected", DEADLINE, async (t) => {
  const { client, heard, connection } = await startBoth(t);
  const publishes = ["chat", "x", "chat"].map((channel) => client.publish(channel, 1));
  const [first, , third] = [await connection.next(), await connection.next(), await connection.next()];
  connection.send({ ack: first.ack, readers: 1 });
  connection.send({ error: "forbidden", channel: "x", message: "this token may not write to channel \"x\"" });
  connection.send({ ack: third.ack, readers: 2 });
  assert.equal(await publishes[0], 1);
  await assert.rejects(publishes[1], { code: "forbidden", message: /may not write/ });
  assert.equal(await publishes[2], 2);
  assert.equal((await heard.errors.next()).error, "forbidden");
});

test("the client reconnects with its last ids, and reports for each channel whether it recovered", DEADLINE, async (t) => {
  const ids = { chat: "e-1", lost: "e-6", silent: "e-0", taken: "e-0" };
  const { heard, server, connection, reached } = await startBoth(t, {}, { read: Object.keys(ids), ids });
  connection.say("2", { id: "e-2" });
  connection.say("3", { channel: "lost", id: "e-7" });
  connection.say("4");
  for (let n = 0; n < 2; n++) await heard.values.next();
  connection.socket.terminate();
  assert.match((await reached("waiting")).reason, /lost/);

  const second = await server.next();
  assert.deepEqual(await second.next(), {
    auth: "a token",
    since: { chat: "e-2", lost: "e-7", silent: "e-0", taken: "e-0" },
  });
  second.access({
    read: ["chat", "lost", "silent", "new"],
    recovered: { chat: true, lost: false, silent: true },
    ids: { chat: "e-2", lost: "f-9", silent: "e-0", new: "e-5" },
  });
  await reached("open");
  // The history delivers what this client published on its first connection like any other message.
  second.say("5", { id: "e-3", issuer: connection.id });
  second.say("6", { id: "e-4" });
  assert.equal((await heard.values.next()).value, 6);
  assert.deepEqual(heard.recovered, [
    { channel: "chat", recovered: true },
    { channel: "lost", recovered: false },
    { channel: "silent", recovered: true },
  ]);

  second.socket.terminate();
  const third = await server.next();
  assert.deepEqual((await third.next()).since, { chat: "e-4", lost: "f-9", silent: "e-0", new: "e-5" });
});

test("without a history there are no ids, and possible gaps are reported", DEADLINE, async (t) => {
  const ids = { chat: "e-1", other: "e-2" };
  const { heard, server, connection, reached } = await startBoth(t, {}, { read: Object.keys(ids), ids });
  connection.socket.terminate();
  const second = await server.next();
  assert.deepEqual((await second.next()).since, ids);
  second.access({ read: Object.keys(ids), recovered: { chat: false, other: false } });
  await reached("open");
  second.socket.terminate();
  const third = await server.next();
  assert.deepEqual((await third.next()).since, { chat: null, other: null });
  third.access({ read: Object.keys(ids) });
  await reached("open");
  assert.deepEqual(heard.recovered.map(({ channel, recovered }) => [channel, recovered]), [
    ["chat", false], ["other", false], ["chat", false], ["other", false],
  ]);
});

test("a channel that is joined later has an id, too, and one that is left has none", DEADLINE, async (t) => {
  const { client, heard, server, connection } = await startBoth(t, {}, { ids: { chat: "e-1" } });
  connection.say("2", { id: "e-2" });
  client.refresh();
  await connection.next();
  connection.access({ read: ["chat", "room"], ids: { room: "e-7" } });
  client.refresh();
  await connection.next();
  connection.access({ read: ["room"] });
  client.refresh();
  await connection.next();
  connection.access({ read: ["chat", "room"], ids: { chat: "e-5" } });
  connection.say("6");
  for (let n = 0; n < 2; n++) await heard.values.next();
  connection.socket.terminate();
  assert.deepEqual((await (await server.next()).next()).since, { chat: "e-5", room: "e-7" });
});

test("the client's own messages advance its id, if the channel has one", DEADLINE, async (t) => {
  const ids = { chat: "e-1" };
  const { client, heard, server, connection } = await startBoth(t, {}, { write: ["chat", "other"], ids });
  const said = async (channel, id) => {
    const publish = client.publish(channel, 1);
    connection.send({ ack: (await connection.next()).ack, readers: 0, id });
    await publish;
  };
  const place = async (connection) => {
    connection.socket.terminate();
    const next = await server.next();
    const { since } = await next.next();
    next.access({ write: ["chat", "other"], recovered: { chat: true }, ids: since });
    return [since, next];
  };
  await said("chat", "e-9");
  await said("other", "e-3");
  await said("chat", undefined);
  let [since, second] = await place(connection);
  assert.deepEqual(since, { chat: "e-9" });
  await heard.states.until(({ state }) => state === "open");
  second.say("10", { id: "e-10" });
  await heard.values.next();
  const publish = client.publish("chat", 1);
  second.send({ ack: (await second.next()).ack, readers: 0, id: "e-8" });
  await publish;
  [since] = await place(second);
  assert.deepEqual(since, { chat: "e-10" });
});

test("unanswered publishes may have been delivered, and unsent ones wait in order", DEADLINE, async (t) => {
  const { client, server, connection, reached } = await startBoth(t);
  const sent = client.publish("chat", 0);
  await connection.next();
  connection.socket.close(1012, "the server asks for a new connection; reconnect");
  const { code, reason, retryIn } = await reached("waiting");
  assert.deepEqual([code, reason], [1012, "the server asks for a new connection; reconnect"]);
  assert(retryIn <= 1);
  await assert.rejects(sent, { code: "unanswered" });
  const later = [1, 2, 3].map((n) => client.publish("chat", n));

  const second = await server.next();
  await second.next();
  second.access();
  for (const n of [1, 2, 3]) {
    const { data, ack } = await second.next();
    assert.equal(data, String(n));
    second.send({ ack, readers: n });
  }
  assert.deepEqual(await Promise.all(later), [1, 2, 3]);
});

test("at most `queue` publishes wait, sent or not", DEADLINE, async (t) => {
  const { client, connection } = await startBoth(t, { queue: 2 });
  const first = client.publish("chat", 1);
  client.publish("chat", 2);
  await assert.rejects(client.publish("chat", 3), { code: "queue_full" });
  connection.send({ ack: (await connection.next()).ack, readers: 0 });
  await first;
  client.publish("chat", 4);
  await connection.next();
  assert.equal((await connection.next()).data, "4");
});

test("4401 requests a new token, and a failed request is repeated", DEADLINE, async (t) => {
  const tokens = ["first", new Error("the login has ended"), "second"];
  const token = async () => {
    const next = tokens.shift();
    if (next instanceof Error) throw next;
    return next;
  };
  const { server, connection, reached } = await startBoth(t, { token });
  connection.socket.close(4401, "the token has expired; get a new one");
  assert.deepEqual((await reached("waiting")).code, 4401);
  assert.equal((await reached("waiting")).reason, "no token: the login has ended");
  assert.equal((await (await server.next()).next()).auth, "second");
});

test("4403 ends the client permanently", DEADLINE, async (t) => {
  const { client, server, connection, reached } = await startBoth(t);
  const publish = client.publish("chat", 1);
  connection.socket.close(4403, "disconnected by an administrator");
  const { code, reason } = await reached("closed");
  assert.deepEqual([code, reason], [4403, "disconnected by an administrator"]);
  await assert.rejects(publish, { code: "closed" });
  await assert.rejects(client.publish("chat", 2), { code: "closed" });
  // A later client is started and ended in more time than this one would have waited.
  const other = startClient(t, server.url);
  const second = await server.next();
  await second.next();
  second.socket.close(4403);
  await other.reached("closed");
  assert.equal(server.count(), 2);
});

test("close ends the connection and waiting publishes, and the process can exit", DEADLINE, async (t) => {
  const { client, connection, reached } = await startBoth(t);
  const closed = once(connection.socket, "close");
  const publish = client.publish("chat", 1);
  client.close();
  client.close();
  assert.equal((await reached("closed")).code, 1000);
  await assert.rejects(publish, { code: "closed" });
  await closed;
});

test("a token is replaced before it expires, on the same connection, and a refused one by another", DEADLINE, async (t) => {
  const tokens = ["first", "bad", "third"];
  const server = await startServer(t);
  const { heard, reached } = startClient(t, server.url, { token: () => tokens.shift() });
  const connection = await server.next();
  await connection.next();
  const now = Date.now();
  connection.access({ expires_at: new Date(now + 1000).toISOString() });
  await reached("open");
  assert.deepEqual(await connection.next(), { auth: "bad" });
  connection.send({ error: "unauthorized", message: "the token has a bad signature" });
  assert.equal((await heard.errors.next()).message, "the token has a bad signature");
  assert.deepEqual(await connection.next(), { auth: "third" });
  assert.equal(server.count(), 1);
});

test("refresh sends a new token on the open connection, or as soon as it is open", DEADLINE, async (t) => {
  let asked = 0;
  const server = await startServer(t);
  const { client, heard } = startClient(t, server.url, { token: () => `token ${++asked}` });
  const connection = await server.next();
  assert.deepEqual(await connection.next(), { auth: "token 1" });
  client.refresh();
  connection.access();
  assert.deepEqual(await connection.next(), { auth: "token 2" });
  connection.access({ read: ["chat", "second"] });
  connection.say("1");
  await heard.values.next();
  assert.deepEqual(client.access.read, ["chat", "second"]);
  client.refresh();
  assert.deepEqual(await connection.next(), { auth: "token 3" });
  assert.deepEqual([server.count(), heard.recovered], [1, []]);
});

test("history: true delivers the whole history of a channel, at the first connection and when it is joined", DEADLINE, async (t) => {
  const server = await startServer(t);
  const { client, heard, reached } = startClient(t, server.url, { history: true });
  const connection = await server.next();
  assert.deepEqual(await connection.next(), { auth: "a token", since: { chat: null } });
  connection.access();
  await reached("open");
  client.on("__proto__", () => {});
  client.refresh();
  const refresh = await connection.next();
  assert.deepEqual(Object.entries(refresh.since), [["__proto__", null]]);
  connection.access({ read: ["chat", "__proto__"] });
  connection.say("1");
  await heard.values.next();
  client.refresh();
  assert.deepEqual(await connection.next(), { auth: "a token" });
  assert.deepEqual(heard.recovered, []);
});

test("a silent server is probed, and disconnected if it does not answer", DEADLINE, async (t) => {
  let asked = 0;
  const { server, connection, reached } = await startBoth(t, { probe: 20, token: () => `token ${++asked}` });
  assert.deepEqual(await connection.next(), { auth: "token 1" }, "the probe needs no new token");
  connection.access();
  await connection.next(); // the server does not answer
  assert.equal((await reached("waiting")).reason, "no answer from the server");
  assert.equal((await (await server.next()).next()).auth, "token 2");
});

test("waits are random in a range that doubles up to the maximum", DEADLINE, async (t) => {
  const random = t.mock.method(Math, "random", () => 0.5);
  const server = await startServer(t);
  const { heard } = startClient(t, server.url, { backoff: [4, 16] });
  const waits = [];
  while (waits.length < 5) {
    const { socket } = await server.next();
    socket.close(1011, "internal server error; reconnect");
    waits.push((await heard.states.until(({ state }) => state === "waiting")).retryIn);
  }
  assert.deepEqual(waits, [2, 4, 8, 8, 8]);
  const last = await server.next();
  random.mock.mockImplementation(() => 0.25);
  last.socket.close(1013, "the server is full");
  assert.equal((await heard.states.until(({ state }) => state === "waiting")).retryIn, 4);
});

test("ids that make the first frame too large are dropped, which is reported", DEADLINE, async (t) => {
  const { heard, server, connection, reached } = await startBoth(t);
  connection.say("1", { id: "e-1" });
  await heard.values.next();
  connection.socket.terminate();
  const second = await server.next();
  assert.deepEqual((await second.next()).since, { chat: "e-1" });
  second.socket.close(1009, "a message is over this server's max_message_size");
  const third = await server.next();
  assert.deepEqual(await third.next(), { auth: "a token" });
  third.access();
  await reached("open");
  third.say("2");
  await heard.values.next();
  assert.deepEqual(heard.recovered, [{ channel: "chat", recovered: false }]);
});

test("an exception in a handler loses no message, and is not hidden", DEADLINE, async (t) => {
  const { client, heard, connection } = await startBoth(t);
  const mistakes = new Inbox();
  const queue = t.mock.method(globalThis, "queueMicrotask", (task) => {
    try {
      task();
    } catch (error) {
      mistakes.put(error.message);
    }
  });
  client.on("chat", () => {
    throw new Error("a mistake");
  });
  client.on("chat", (value) => heard.values.put({ value: `again ${value}` }));
  connection.say("1");
  assert.equal((await heard.values.next()).value, 1);
  assert.equal((await heard.values.next()).value, "again 1");
  assert.equal(await mistakes.next(), "a mistake");
  queue.mock.restore();
});

test("an invalid address is refused at once", () => {
  assert.throws(() => new Philote("no address", { token: () => "" }), TypeError);
});
