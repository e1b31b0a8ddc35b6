// `load` of packaging/npm: a handler follows a state that it loads, against a server that the tests script.

import assert from "node:assert/strict";
import test from "node:test";
import { DEADLINE, Inbox, startBoth, startClient, startServer } from "./fake_server.mjs";

/** A `load` whose calls arrive in `next`, each with its own `answer` and `fail`. */
function startLoad() {
  const calls = new Inbox();
  let count = 0;
  const load = () =>
    new Promise((answer, fail) => {
      calls.put({ answer, fail });
      count++;
    });
  return { load, next: calls.next, count: () => count };
}

/** Adds a handler that follows a state. What it gets arrives in `values`. */
function follow(client, channel = "chat") {
  const loading = startLoad();
  const values = new Inbox();
  const end = client.on(channel, values.put, { load: loading.load });
  return { ...loading, values, end };
}

/** Answers a token; `recovered` is of the channel chat. */
const admit = (connection, id, recovered) =>
  connection.access({ ids: { chat: id }, ...(recovered !== undefined && { recovered: { chat: recovered } }) });

/** Waits until the client has handled what the server sent before. */
async function settle(connection, client) {
  const acknowledged = client.publish("chat", "?");
  const { ack } = await connection.next();
  connection.send({ ack, readers: 0 });
  await acknowledged;
}

/** A new client with one handler, whose state was loaded before its connection; it follows the channel from `e-5` on. */
async function startFollowing(t, options) {
  const server = await startServer(t);
  const token = new Inbox();
  const started = startClient(t, server.url, { token: token.next, ...options });
  const one = follow(started.client);
  (await one.next()).answer("e-5");
  token.put("a token");
  const connection = await server.next();
  assert.deepEqual(await connection.next(), { auth: "a token", since: { chat: "e-5" } });
  admit(connection, "e-5", true);
  await started.reached("open");
  return { server, token, connection, ...started, ...one };
}

test("the state is loaded before the channel is joined, and again exactly when messages are missing", DEADLINE, async (t) => {
  const { server, token, connection, client, values, next, count, heard } = await startFollowing(t);
  connection.say("6", { id: "e-6" });
  assert.equal(await values.next(), 6);
  connection.socket.terminate();
  token.put("a token");
  const second = await server.next();
  assert.deepEqual((await second.next()).since, { chat: "e-6" });
  admit(second, "e-6", true);
  second.say("7", { id: "e-7" });
  assert.equal(await values.next(), 7);
  assert.equal(count(), 1);

  second.socket.terminate();
  token.put("a token");
  const third = await server.next();
  assert.deepEqual((await third.next()).since, { chat: "e-7" });
  admit(third, "e-9", false);
  const again = await next();
  for (const n of [10, 11, 12]) third.say(String(n), { id: `e-${n}` });
  await settle(third, client);
  again.answer("e-11");
  assert.equal(await values.next(), 12, "what is in the state is not delivered, and what arrived meanwhile is");
  third.say("13", { id: "e-13" });
  assert.equal(await values.next(), 13);
  assert.equal(count(), 2);
  assert.deepEqual(heard.recovered.map(({ recovered }) => recovered), [true, false]);
});

test("a state from before the channel was joined is loaded again, if messages are missing between the two", DEADLINE, async (t) => {
  for (const old of ["e-4", "other-9"]) {
    const server = await startServer(t);
    const { client } = startClient(t, server.url);
    const { next, values, count } = follow(client);
    const call = await next();
    const connection = await server.next();
    assert.deepEqual(await connection.next(), { auth: "a token" }, "the connection does not wait for the state");
    admit(connection, "e-5");
    for (const n of [6, 7, 8]) connection.say(String(n), { id: `e-${n}` });
    await settle(connection, client);
    call.answer(old);
    (await next()).answer("e-6");
    await settleMicrotasks();
    connection.say("9", { id: "e-9" });
    assert.deepEqual([await values.next(), await values.next(), await values.next()], [7, 8, 9]);
    assert.equal(count(), 2);
  }
});

const settleMicrotasks = () => new Promise((resolve) => setImmediate(resolve));

test("an id that the history does not reach is loaded again at once, and then not in a hot loop", DEADLINE, async (t) => {
  const server = await startServer(t);
  const token = new Inbox();
  const { client, heard } = startClient(t, server.url, { token: token.next, backoff: [40, 40] });
  const { next, values, count } = follow(client);
  (await next()).answer("old-1");
  token.put("a token");
  const connection = await server.next();
  assert.deepEqual((await connection.next()).since, { chat: "old-1" });
  admit(connection, "e-0", false);
  const began = performance.now();
  for (let n = 0; n < 20; n++) {
    (await next()).answer("old-1");
    const { error, channel, message } = await heard.errors.next();
    assert.deepEqual([error, channel], ["load", "chat"]);
    assert.match(message, /load\(\) returned the id old-1, and messages are known after e-0/);
  }
  assert(performance.now() - began > 100, "the waits are random, and 20 ms on average");
  // A good answer ends it, after a message that arrived between two calls.
  connection.say("1", { id: "e-1" });
  await settle(connection, client);
  (await next()).answer("e-1");
  await settleMicrotasks();
  connection.say("2", { id: "e-2" });
  assert.equal(await values.next(), 2);
  assert.equal(count(), 22);
});

test("a load that fails, or returns no id, is told and tried again", DEADLINE, async (t) => {
  const { connection, client, heard } = await startBoth(t, {}, { ids: { chat: "e-1" } });
  const { next, values } = follow(client);
  (await next()).fail(new Error("no backend"));
  assert.deepEqual(await heard.errors.next(), { error: "load", channel: "chat", message: "load() failed: no backend" });
  (await next()).answer(undefined);
  assert.match((await heard.errors.next()).message, /returned no id/);
  const failing = await next();
  connection.say("2", { id: "e-2" });
  await settle(connection, client);
  failing.fail("no backend");
  await heard.errors.next();
  (await next()).answer("e-1");
  assert.match((await heard.errors.next()).message, /the id e-1, .* after e-2/, "message 2 is gone");
  const call = await next();
  connection.say("3", { id: "e-3" });
  await settle(connection, client);
  call.answer("e-2");
  assert.equal(await values.next(), 3);

  client.on("chat", () => {}, {
    load: () => {
      throw "no object";
    },
  });
  assert.equal((await heard.errors.next()).message, "load() failed: no object");
});

test("a load that does not answer is given up, and its late answer is ignored", DEADLINE, async (t) => {
  const real = setTimeout;
  t.mock.method(globalThis, "setTimeout", (what, delay, ...details) => real(what, delay === 20_000 ? 50 : delay, ...details));
  const { connection, client, heard } = await startBoth(t, {}, { ids: { chat: "e-1" } });
  const { next, values } = follow(client);
  const late = await next();
  assert.equal((await heard.errors.next()).message, "load() did not answer within 20 s");
  const call = await next();
  late.answer("e-1");
  connection.say("2", { id: "e-2" });
  await settle(connection, client);
  call.answer("e-2");
  connection.say("3", { id: "e-3" });
  assert.equal(await values.next(), 3);
});

for (const [what, count, text] of [["1000 messages", 1000, "1"], ["4 Mi characters", 4, `"${"x".repeat(2 ** 20 - 2)}"`]]) {
  test(`at most ${what} are held while the state is loaded: with more it is loaded again`, DEADLINE, async (t) => {
    const { connection, client, heard } = await startBoth(t, {}, { ids: { chat: "e-0" } });
    const { next, values } = follow(client);
    const fits = await next();
    for (let n = 1; n <= count; n++) connection.say(text, { id: `e-${n}` });
    await settle(connection, client);
    fits.answer("e-0");
    for (let n = 1; n <= count; n++) await values.next();

    const second = follow(client);
    const call = await second.next();
    for (let n = 1; n <= count + 1; n++) connection.say(text, { id: `e-${count + n}` });
    assert.match((await heard.errors.next()).message, /too many messages arrived/);
    call.answer(`e-${count}`);
    (await second.next()).answer(`e-${2 * count + 1}`);
    await settle(connection, client);
    connection.say('"next"', { id: `e-${2 * count + 2}` });
    assert.equal(await second.values.next(), "next");
  });
}

test("a room is joined when its state is loaded, with the id of the state", DEADLINE, async (t) => {
  const { connection, client, heard, server } = await startBoth(t, {}, { may: { read: ["room:*"], write: [] } });
  const { next, values, end, count } = follow(client, "room:1");
  (await next()).fail(new Error("not yet"));
  assert.equal((await heard.errors.next()).channel, "room:1");
  const call = await next();
  await settle(connection, client);
  call.answer("e-3");
  assert.deepEqual(await connection.next(), { join: ["room:1"], since: { "room:1": "e-3" } });
  connection.send({ joined: { "room:1": { id: "e-3", recovered: true } } });
  connection.say("4", { channel: "room:1", id: "e-4" });
  assert.equal(await values.next(), 4);

  // A token that does not allow it has it left. It is joined again with a new state.
  client.refresh();
  await connection.next();
  connection.send({ left: ["room:1"] });
  connection.access({ may: { read: [], write: [] } });
  assert.equal((await heard.errors.next()).error, "forbidden");
  client.refresh();
  await connection.next();
  connection.access({ may: { read: ["room:*"], write: [] } });
  assert.deepEqual(await connection.next(), { join: ["room:1"], since: {} });
  connection.send({ joined: { "room:1": { id: "e-8" } } });
  (await next()).answer("e-8");
  await settleMicrotasks();
  connection.say("9", { channel: "room:1", id: "e-9" });
  assert.equal(await values.next(), 9);
  assert.equal(count(), 3);

  connection.socket.terminate();
  const second = await server.next();
  await second.next();
  second.access({ may: { read: ["room:*"], write: [] } });
  assert.deepEqual(await second.next(), { join: ["room:1"], since: { "room:1": "e-9" } });
  second.send({ joined: { "room:1": { id: "e-9", recovered: true } } });
  second.say("10", { channel: "room:1", id: "e-10" });
  assert.equal(await values.next(), 10);
  assert.equal(count(), 3);
  end();
  assert.deepEqual(await second.next(), { leave: ["room:1"] });
});

test("a room with another handler does not wait for the state", DEADLINE, async (t) => {
  const { connection, client } = await startBoth(t, {}, { may: { read: ["room:*"], write: [] } });
  const { next, values } = follow(client, "room:1");
  const plain = new Inbox();
  client.on("room:1", plain.put);
  const call = await next();
  assert.deepEqual(await connection.next(), { join: ["room:1"], since: {} });
  connection.send({ joined: { "room:1": { id: "e-3" } } });
  for (const n of [4, 5]) connection.say(String(n), { channel: "room:1", id: `e-${n}` });
  assert.deepEqual([await plain.next(), await plain.next()], [4, 5]);
  call.answer("e-4");
  assert.equal(await values.next(), 5);
});

test("two states of a channel are followed each from its id, also beside a handler that gets the history", DEADLINE, async (t) => {
  const server = await startServer(t);
  const token = new Inbox();
  const { client } = startClient(t, server.url, { token: token.next });
  const [one, other] = [follow(client), follow(client)];
  (await one.next()).answer("e-5");
  (await other.next()).answer("e-3");
  token.put("a token");
  const connection = await server.next();
  assert.deepEqual((await connection.next()).since, { chat: "e-3" });
  admit(connection, "e-3", true);
  for (const n of [4, 5, 6]) connection.say(String(n), { id: `e-${n}` });
  assert.deepEqual([await other.values.next(), await other.values.next(), await other.values.next()], [4, 5, 6]);
  assert.equal(await one.values.next(), 6);

  const chatting = startClient(t, server.url, { token: token.next, history: true });
  const state = follow(chatting.client);
  (await state.next()).answer("e-5");
  token.put("a token");
  const second = await server.next();
  assert.deepEqual((await second.next()).since, { chat: null });
  admit(second, "e-4");
  for (const n of [5, 6, 7]) second.say(String(n), { id: `e-${n}` });
  for (const n of [5, 6, 7]) assert.equal((await chatting.heard.values.next()).value, n);
  assert.deepEqual([await state.values.next(), await state.values.next()], [6, 7]);
});

test("a history that is delivered again to another handler does not reach a state twice", DEADLINE, async (t) => {
  const { connection, client } = await startBoth(t, { history: true }, { ids: { chat: "e-5" }, max_message_size: 65_536 });
  const { next, values } = follow(client);
  (await next()).answer("e-5");
  connection.say("6", { id: "e-6" });
  assert.equal(await values.next(), 6);
  const late = new Inbox();
  client.on("chat", late.put);
  assert.deepEqual(await connection.next(), { auth: "a token", since: { chat: null } });
  connection.access({ ids: { chat: "e-4" }, max_message_size: 65_536 });
  for (const n of [5, 6, 7]) connection.say(String(n), { id: `e-${n}` });
  for (const n of [5, 6, 7]) assert.equal(await late.next(), n);
  assert.equal(await values.next(), 7);
});

test("a handler that is removed while its state is loaded, or while it gets what was held, gets nothing", DEADLINE, async (t) => {
  const { connection, client, heard } = await startBoth(t, {}, { ids: { chat: "e-0" } });
  const gone = follow(client);
  const call = await gone.next();
  gone.end();
  call.answer("e-0");
  const early = follow(client);
  early.end();
  const got = [];
  const { load, next } = startLoad();
  const end = client.on("chat", (value) => (got.push(value), end()), { load });
  const running = await next();
  for (const n of [1, 2]) connection.say(String(n), { id: `e-${n}` });
  await settle(connection, client);
  running.answer("e-0");
  await settleMicrotasks();
  connection.say("3", { id: "e-3" });
  await heard.values.until(({ value }) => value === 3);
  assert.deepEqual([got, early.count(), gone.count()], [[1], 0, 1]);
  client.close();
  const closed = follow(client);
  await settleMicrotasks();
  assert.equal(closed.count(), 0);
});

test("without a history, the state is loaded after the channel was joined, each time", DEADLINE, async (t) => {
  const server = await startServer(t);
  const token = new Inbox();
  const { client } = startClient(t, server.url, { token: token.next });
  const { next, values, count } = follow(client);
  (await next()).answer(null);
  token.put("a token");
  const connection = await server.next();
  await connection.next();
  connection.access();
  const call = await next();
  connection.say("1");
  await settle(connection, client);
  call.answer(null);
  assert.equal(await values.next(), 1);
  connection.socket.terminate();
  token.put("a token");
  const second = await server.next();
  await second.next();
  second.access({ recovered: { chat: false } });
  (await next()).answer(null);
  await settle(second, client);
  second.say("2");
  assert.equal(await values.next(), 2);
  assert.equal(count(), 3);
});
