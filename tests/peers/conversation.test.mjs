// A browser, a Python program and a Node program exchange 1,000 messages through one channel, as they are and compressed. All
// three offer compression by default.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer, request } from "node:http";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import test from "node:test";
import WebSocket from "ws";
import { converse } from "./converse.mjs";
import { DEADLINE, openBrowser, publish, PYTHON, sign, startPhilote } from "./philote.mjs";

const CHANNEL = "המסיבה 🎉";
const SHARES = { browser: 334, python: 333, node: 333 };
const TEXTS = [
  "plain",
  "שלום, עולם",
  "👩‍👩‍👧‍👦 🏳️‍🌈",
  "NUL \u0000 and DEL \u007f",
  "lines\r\n\u2028\u2029\tand a mark \ufeff",
  "\"quoted\" \\back\\slashed\\ {\"channel\":\"x\"}",
  "e\u0301 is not \u00e9; 漢字 ﷽ \u{10ffff}",
  "a long text, which ws compresses, too: ".repeat(40),
  "",
];

const role = (name) => ({
  name,
  others: Object.keys(SHARES).filter((other) => other !== name),
  channel: CHANNEL,
  share: SHARES[name],
  lead: 8,
  texts: TEXTS,
});
const access = (name) => ({ read: [CHANNEL], write: [CHANNEL], sub: name });

/** Serves the page and its script, as a web server would. */
async function servePage(t) {
  const types = { "/converse.html": "text/html", "/converse.mjs": "text/javascript" };
  const server = createServer(async ({ url }, response) => {
    if (!(url in types)) return response.writeHead(404).end();
    response.setHeader("Content-Type", types[url]);
    response.end(await readFile(new URL(`.${url}`, import.meta.url)));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => server.close());
  return `http://127.0.0.1:${server.address().port}/converse.html`;
}

/** The browser: only WebSocket and the `auth` query parameter. */
async function joinFromBrowser(t, philote) {
  const page = await openBrowser(t);
  const failed = once(page, "pageerror").then(([error]) => Promise.reject(error));
  failed.catch(() => {});
  const token = sign(philote, access("browser"));
  const hash = encodeURIComponent(JSON.stringify({ address: philote.address, token, role: role("browser") }));
  await page.goto(`${await servePage(t)}#${hash}`);
  await Promise.race([failed, page.waitForFunction(() => document.title === "open")]);
  const received = page.waitForFunction(() => window.received).then((handle) => handle.jsonValue());
  return { token, received: Promise.race([failed, received]) };
}

/** The Python program: PyPI's websockets and PyJWT, the token in the Authorization header. */
async function joinFromPython(t, philote) {
  const child = spawn(PYTHON, [new URL("converse.py", import.meta.url).pathname], {
    env: { SECRET: philote.secret, PYTHONUTF8: "1" },
    stdio: ["pipe", "pipe", "inherit"],
  });
  t.after(() => child.kill());
  child.stdin.end(JSON.stringify({ ...role("python"), address: philote.address }));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const line = async () => {
    const { value, done } = await lines.next();
    assert(!done, "the Python program ended early; its output is above");
    return value;
  };
  assert.equal(await line(), "open");
  return { received: line().then(JSON.parse) };
}

async function connectFromNode(t, philote, claims) {
  const token = sign(philote, claims);
  const socket = new WebSocket(`ws://${philote.address}/`, { headers: { Authorization: `Bearer ${token}` } });
  t.after(() => socket.terminate());
  await once(socket, "open");
  return { token, socket };
}

/** The Node program: npm's ws and jsonwebtoken. */
async function joinFromNode(t, philote) {
  const { token, socket } = await connectFromNode(t, philote, access("node"));
  return { token, received: converse(socket, role("node")) };
}

/** A client that only reads; its order is the channel's. Resolves `all` when every message of the three has arrived. */
async function joinAudience(t, philote) {
  const { token, socket } = await connectFromNode(t, philote, { read: [CHANNEL] });
  const silent = { name: "audience", others: [], channel: CHANNEL, share: 0, lead: 0, texts: [] };
  const received = converse(socket, silent);
  let missing = Object.values(SHARES).reduce((sum, share) => sum + share, 1); // plus one for "go"
  const all = new Promise((resolve) => socket.on("message", () => --missing || resolve()));
  return { token, received, all };
}

/** What the admin socket answers. */
async function ask(philote, path) {
  const socketPath = join(philote.directory, "admin.sock");
  const [answer] = await once(request({ socketPath, path, headers: { Host: "philote" } }).end(), "response");
  return JSON.parse(await text(answer));
}

for (const compression of ["off", "64B"]) {
  const name = `a browser, a Python program and a Node program exchange 1,000 messages, with compression ${compression}`;
  test(name, DEADLINE, (t) => exchange(t, compression));
}

async function exchange(t, compression) {
  const philote = await startPhilote(t, { PHILOTE_WEBSOCKET_COMPRESSION: compression });
  const peers = {
    browser: await joinFromBrowser(t, philote),
    python: await joinFromPython(t, philote),
    node: await joinFromNode(t, philote),
  };
  const audience = await joinAudience(t, philote);
  const everyone = Promise.all([...Object.values(peers), audience].map(({ received }) => received));

  const { connections } = await ask(philote, "/v1/connections");
  assert.deepEqual(connections.map((one) => one.compression), Array(4).fill(compression !== "off"));

  const started = await publish(philote, CHANNEL, "go");
  assert.deepEqual(started, { channel: CHANNEL, readers: 4 });
  await Promise.race([audience.all, everyone]);
  // A duplicate or late message would arrive before this one, the last of all.
  await publish(philote, CHANNEL, "end");
  await everyone;

  const order = await audience.received;
  const issuer = {};
  for (const name in SHARES) {
    const own = order.filter(({ subject }) => subject === name);
    const expected = Array.from({ length: SHARES[name] }, (_, k) => `${name} ${k} ${TEXTS[k % TEXTS.length]}`);
    assert.deepEqual(own.map(({ data }) => data), expected, `all of ${name}, once and in order`);
    issuer[name] = own[0].issuer;
    assert.match(issuer[name], /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/);
    assert(own.every((message) => message.issuer === issuer[name] && message.channel === CHANNEL));

    const received = await peers[name].received;
    const others = order.filter(({ subject }) => subject !== name);
    assert.deepEqual(received, others, `${name} has the channel's one order, without its own messages`);
  }
  assert.equal(order.length, 1000 + 2);
  assert.equal(order[0].issuer, order.at(-1).issuer, "go and end have the id of the daemon");
  assert.equal(new Set([...Object.values(issuer), order[0].issuer]).size, 4);

  for (const { token } of [...Object.values(peers), audience]) {
    assert(!token || !philote.output.includes(token), "a token was logged");
  }
  assert(!philote.output.includes(philote.secret), "the secret was logged");
  const compressed = (await ask(philote, "/v1/status")).compression;
  // Most of the texts are too short to become shorter.
  if (compression === "off") assert.equal(compressed, null);
  else assert(compressed.messages > 100 && compressed.bytes_after < compressed.bytes_before / 2, JSON.stringify(compressed));
  t.diagnostic(`${order.length - 2} messages, one order at all readers; compressed: ${JSON.stringify(compressed)}`);
}
