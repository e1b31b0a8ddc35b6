// The client of packaging/python against the daemon: limits, cuts, restarts, reloads, and a network that stands still.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import test from "node:test";
import { Inbox } from "./fake_server.mjs";
import { DEADLINE, publish, PYTHON, startPhilote } from "./philote.mjs";
import { startProxy } from "./proxy.mjs";

const DRIVER = new URL("client_driver.py", import.meta.url).pathname;
const CLAIMS = { read: ["chat"], write: ["chat"] };
const numbers = (count) => Array.from({ length: count }, (_, n) => n);

/** A Python program with a client: `call` gives it a command, and what it tells of each kind arrives in `heard`. */
async function startClient(t, philote, { address = philote.address, claims = CLAIMS, isOpen = true, ...options } = {}) {
  const words = ["-B", "-X", "dev", "-W", "error", DRIVER, ...[`ws://${address}/`, claims, options].map((one) => JSON.stringify(one))];
  const env = { PATH: process.env.PATH, PYTHONUTF8: "1", SECRET: philote.secret };
  const child = spawn(PYTHON, words, { env, stdio: ["pipe", "pipe", "pipe"] });
  const names = ["state", "recovered", "error", "value", "answer", "presence", "access", "event", "tasks"];
  const heard = Object.fromEntries(names.map((name) => [name, new Inbox()]));
  const recovered = [];
  createInterface({ input: child.stdout }).on("line", (line) => {
    const [name, ...details] = JSON.parse(line);
    if (name === "recovered") recovered.push(details[0]);
    heard[name].put(name === "answer" ? details : details[0]);
  });
  let errors = "";
  child.stderr.on("data", (text) => (errors += text));
  const exited = once(child, "exit");
  exited.then(() => names.forEach((name) => heard[name].put(new Error(errors))));
  const client = {
    heard,
    recovered,
    call: (...command) => child.stdin.write(`${JSON.stringify(command)}\n`),
    /** Takes these many. */
    take: async (name, count) => {
      const taken = [];
      while (taken.length < count) taken.push(await heard[name].next());
      return taken;
    },
    reached: (state) => heard.state.until((one) => one instanceof Error || one.state === state),
  };
  t.after(async () => {
    child.stdin.end();
    assert.deepEqual([await exited, errors], [[0, null], ""]);
    assert.equal(await heard.tasks.next(), 1, "only the main task is left");
  });
  client.call("on", "chat");
  if (isOpen) await client.reached("open");
  return client;
}

/** Applies settings. */
async function reload(philote, settings) {
  await writeFile(join(philote.directory, "philote.toml"), settings);
  const before = philote.output.length;
  philote.signal("SIGHUP");
  await philote.says(new RegExp(`^[^]{${before}}[^]*reloaded`));
}

test("60 publishes queued before the connection, against 10 a second: all arrive in order, also when the network stalls", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { PHILOTE_LIMITS_MESSAGES_PER_SECOND: "10" });
  const proxy = await startProxy(t, philote.address);
  const reader = await startClient(t, philote);
  const client = await startClient(t, philote, { address: proxy.address, isOpen: false });
  client.call("publish", "chat", ...numbers(60));
  const read = await reader.take("value", 3);
  proxy.stall();
  await new Promise((resolve) => setTimeout(resolve, 2500));
  proxy.open();
  read.push(...(await reader.take("value", 57)));
  assert.deepEqual(read, numbers(60));
  assert.deepEqual(await client.take("answer", 60), numbers(60).map((n) => [n, { result: 1 }]));
  assert(!/rate_limited|4429/.test(philote.output));
  assert.deepEqual(client.recovered, []);
});

test("a rate in bytes is respected, and one message over a second's worth is sent after a pause", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { PHILOTE_LIMITS_BYTES_PER_SECOND: "8KiB" });
  const reader = await startClient(t, philote);
  const client = await startClient(t, philote);
  const texts = [..."abcd".repeat(3)].map((letter) => letter.repeat(1500)).concat("x".repeat(20_000), "é".repeat(900));
  client.call("publish", "chat", ...texts);
  assert.deepEqual(await reader.take("value", texts.length), texts);
  assert(!/rate_limited|4429/.test(philote.output));
});

test("a reload that sets the rate loses no message, and one that lowers max_message_size only the too large one", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const reader = await startClient(t, philote);
  const client = await startClient(t, philote);
  await reload(philote, "[limits]\nmessages_per_second = 20\n");
  // The client knows of no rate, so it sends everything at once: some are accepted, some refused, and the connection is closed.
  client.call("publish", "chat", ...numbers(150));
  const read = await reader.take("value", 150);
  assert.deepEqual(read.toSorted((one, other) => one - other), numbers(150), "each once");
  await client.take("answer", 150);
  client.call("access");
  assert.deepEqual(await client.heard.access.next(), { rate: 20 });

  await reload(philote, '[websocket]\nmax_message_size = "1KiB"\n');
  client.call("publish", "chat", "a", "b".repeat(5000), "c");
  const answers = Object.fromEntries(await client.take("answer", 3));
  assert.equal(answers["b".repeat(5000)].code, "message_too_big");
  assert.deepEqual([answers.a, answers.c], [{ result: 1 }, { result: 1 }]);
  assert.deepEqual(await reader.take("value", 2), ["a", "c"]);
});

test("a dead connection is detected within `probe` of silence, and a server that only is quiet is not", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const proxy = await startProxy(t, philote.address);
  const client = await startClient(t, philote, { address: proxy.address, probe: 1 });
  await new Promise((resolve) => setTimeout(resolve, 3000));
  client.call("publish", "chat", 1);
  assert.deepEqual(await client.heard.answer.next(), [1, { result: 0 }], "on the first connection");
  proxy.stall();
  const began = performance.now();
  assert.equal((await client.reached("waiting")).reason, "no answer from the server");
  // The limit is 1 s; the rest is for a busy machine.
  assert(performance.now() - began < 10_000);
  proxy.open();
  await client.reached("open");
});

test("a reader that the server closes as too slow comes back, and misses nothing that the history has", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { PHILOTE_HISTORY_MESSAGES: "10000", PHILOTE_LIMITS_QUEUE_BYTES: "256KiB" });
  const proxy = await startProxy(t, philote.address);
  const reader = await startClient(t, philote, { address: proxy.address, probe: 0 });
  await publish(philote, "chat", "0");
  await reader.take("value", 1);
  proxy.stall();
  const text = JSON.stringify("x".repeat(40_000));
  let count = 1;
  for (; (await publish(philote, "chat", text)).readers; count++) assert(count < 2_000, "it was not closed");
  proxy.open();
  assert.equal((await reader.reached("waiting")).code, 4413);
  await reader.reached("open");
  // Whether the missed messages fit into the queue depends on the buffers of the network; the client tells either.
  const { recovered } = await reader.heard.recovered.next();
  await publish(philote, "chat", '"last"');
  const seen = [];
  while (seen.at(-1) !== "last") seen.push(await reader.heard.value.next());
  assert.equal(recovered, seen.length === count + 1, `${seen.length} of ${count + 1}, recovered: ${recovered}`);
});

test("restarts with another history each time: what is missing is told, and nothing comes twice", { timeout: 120_000 }, async (t) => {
  const HISTORIES = ["0", "5", "50"];
  const secret = "the secret that outlives all of these daemons";
  const start = async (turn) => {
    const settings = { SECRET: secret, PHILOTE_HISTORY_MESSAGES: HISTORIES[turn % 3], PHILOTE_SHUTDOWN_DRAIN: "0s" };
    return Object.assign(await startPhilote(t, settings), { secret });
  };
  let philote = await start(0);
  const proxy = await startProxy(t, philote.address);
  const client = await startClient(t, philote, { address: proxy.address, history: true });
  for (let turn = 0; turn < 7; turn++) {
    for (const n of numbers(20)) await publish(philote, "chat", JSON.stringify([turn, n]));
    assert.deepEqual(await client.take("value", 20), numbers(20).map((n) => [turn, n]));
    // A cut, during which three messages arrive.
    proxy.cut();
    await client.reached("waiting");
    for (const n of numbers(3)) await publish(philote, "chat", JSON.stringify(["cut", n]));
    proxy.open();
    const kept = HISTORIES[turn % 3] !== "0";
    assert.equal((await client.heard.recovered.next()).recovered, kept);
    if (kept) assert.deepEqual(await client.take("value", 3), numbers(3).map((n) => ["cut", n]));
    await philote.stop();
    philote = await start(turn + 1);
    proxy.target = philote.address;
    assert.equal((await client.heard.recovered.next()).recovered, false);
  }
});

test("a thousand rooms, cuts, and a token that allows fewer", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { PHILOTE_HISTORY_MESSAGES: "100", PHILOTE_LIMITS_CHANNELS_PER_TOKEN: "1024" });
  const proxy = await startProxy(t, philote.address);
  const claims = { read: ["chat"], may: { read: ["room:*"], write: ["room:*"] } };
  const client = await startClient(t, philote, { address: proxy.address, claims });
  const rooms = numbers(1000).map((n) => `room:${n} with a name that makes the frames of all of them too large for one ${"x".repeat(120)}`);
  client.call("on", ...rooms);
  client.call("join", ...rooms);
  await client.take("answer", 1000);
  for (const room of [rooms[0], rooms[999]]) await publish(philote, room, JSON.stringify(room));
  assert.deepEqual(await client.take("value", 2), [rooms[0], rooms[999]]);
  proxy.cut();
  await client.reached("waiting");
  for (const room of [rooms[1], rooms[500]]) await publish(philote, room, "7");
  proxy.open();
  assert.deepEqual(await client.take("value", 2), [7, 7]);
  assert((await client.take("recovered", 1001)).every(({ recovered }) => recovered));

  client.call("leave", ...rooms);
  client.call("refresh", { may: { read: ["room:1 *"], write: [] } });
  const errors = await client.take("error", 1000);
  assert(errors.every(({ error, channel }) => error === "forbidden" && channel !== rooms[1]));
  assert.equal((await publish(philote, rooms[1], "8")).readers, 1);
  assert.equal(await client.heard.value.next(), 8);
  assert.equal((await publish(philote, rooms[2], "9")).readers, 0);
  client.call("off", rooms[1]);
  while ((await publish(philote, rooms[1], "10")).readers) await new Promise(setImmediate);
});

test("who is there is told, and again after a cut", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { PHILOTE_PRESENCE_GRACE: "0s" });
  const proxy = await startProxy(t, philote.address);
  const may = { read: ["room:*"], write: [] };
  const claims = (sub, info) => ({ read: ["chat"], may, presence: ["room:*"], sub, info });
  const ann = await startClient(t, philote, { address: proxy.address, claims: claims("ann", { name: "Ann é" }) });
  ann.call("presence", "room:1");
  const told = (fits) => ann.heard.presence.until((one) => one instanceof Error || fits(one.subjects));
  await told(({ ann }) => ann?.name === "Ann é");
  const bob = await startClient(t, philote, { claims: claims("bob") });
  bob.call("on", "room:1");
  assert.deepEqual((await told((subjects) => "bob" in subjects)).joined, ["bob"]);
  proxy.cut();
  await ann.reached("waiting");
  proxy.open();
  await told((subjects) => "bob" in subjects && "ann" in subjects);
  bob.call("off", "room:1");
  assert.deepEqual((await told((subjects) => !("bob" in subjects))).left, ["bob"]);
});

test("events for a backend go on over a cut, and after a restart it is told that some are missing", DEADLINE, async (t) => {
  const secret = "the secret that outlives both of these daemons";
  const settings = { SECRET: secret, PHILOTE_PRESENCE_GRACE: "0s", PHILOTE_SHUTDOWN_DRAIN: "0s" };
  const start = async () => Object.assign(await startPhilote(t, settings), { secret });
  let philote = await start();
  const proxy = await startProxy(t, philote.address);
  const backend = await startClient(t, philote, { address: proxy.address });
  const told = (fits) => backend.heard.event.until((one) => one instanceof Error || fits(one));
  backend.call("events", "room:*", "dm:17");
  assert.equal((await backend.heard.event.next()).event, "alive");
  const ann = await startClient(t, philote, { claims: { may: { read: ["room:*", "dm:*"], write: [] }, sub: "ann" } });
  assert.equal((await told(({ event, subject }) => event === "opened" && subject === "ann")).channel, null);
  ann.call("join", "room:1", "dm:16", "dm:17");
  const seen = [];
  while (seen.length < 4) seen.push(await told(({ channel }) => channel));
  assert.deepEqual(
    seen.map(({ event, channel }) => `${event} ${channel}`).sort(),
    ["joined dm:17", "joined room:1", "occupied dm:17", "occupied room:1"],
  );
  proxy.cut();
  await backend.reached("waiting");
  ann.call("leave", "room:1");
  // The daemon tells it while nobody listens.
  const listener = await startClient(t, philote);
  listener.call("publish", "chat", 1);
  await listener.heard.answer.next();
  proxy.open();
  assert.equal((await told(({ event }) => event === "left")).subject, "ann");
  await philote.stop();
  philote = await start();
  proxy.target = philote.address;
  assert.equal((await told(({ event }) => event === "missed")).event, "missed");
  await startClient(t, philote, { claims: { read: ["room:2"], sub: "bob" } });
  assert.equal((await told(({ event }) => event === "joined")).subject, "bob");
});
