// Networks that let no WebSocket pass: the client of packaging/npm and the browser's EventSource read events over HTTP.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { createServer, request as open } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import test from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { Inbox, startClient } from "./fake_server.mjs";
import { DEADLINE, freePort, openBrowser, publish, scratch, sign, startPhilote } from "./philote.mjs";

const FILES = {
  "/": ["text/html", new URL("client_events.html", import.meta.url)],
  "/philote.js": ["text/javascript", new URL("../../packaging/npm/philote.js", import.meta.url)],
};

/** Serves the page from an origin of its own. */
async function startPage(t) {
  const server = createServer(async ({ url }, response) => {
    const [type, path] = FILES[new URL(url, "http://x").pathname];
    response.setHeader("Content-Type", type);
    response.end(await readFile(path));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => server.close());
  return `http://127.0.0.1:${server.address().port}/`;
}

/** Proxies that refuse upgrades, each with the text of its settings and how it is started. */
const PROXIES = {
  // As nginx is without further settings: HTTP/1.0 to the server, and no header that asks for an upgrade.
  nginx: {
    text: (port, target, directory) => `
      worker_processes 1; daemon off; pid ${directory}/pid; error_log stderr emerg;
      events {}
      http {
        access_log off;
        client_body_temp_path ${directory}/body; proxy_temp_path ${directory}/proxy; fastcgi_temp_path ${directory}/f;
        uwsgi_temp_path ${directory}/u; scgi_temp_path ${directory}/s;
        server { listen 127.0.0.1:${port}; location / { proxy_pass http://${target}; } }
      }`,
    start: (file) => ["nginx", ["-c", file]],
  },
  haproxy: {
    text: (port, target) => `
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend all
  bind 127.0.0.1:${port}
  http-request deny deny_status 403 if { req.hdr(Upgrade) -m found }
  default_backend philote
backend philote
  server one ${target}
`,
    start: (file) => ["haproxy", ["-db", "-f", file]],
  },
};

async function startProxy(t, { text, start }, target) {
  const [directory, port] = [await scratch(t), await freePort()];
  const file = join(directory, "settings");
  await writeFile(file, text(port, target, directory));
  const [command, args] = start(file);
  const program = spawn(command, args, { stdio: ["ignore", "ignore", "inherit"], env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` } });
  const exited = once(program, "exit");
  t.after(async () => {
    program.kill("SIGTERM");
    await exited;
  });
  for (const deadline = Date.now() + 20_000; ; await pause(20)) {
    const socket = connect(port, "127.0.0.1");
    const connected = await once(socket, "connect").then(() => true, () => false);
    socket.destroy();
    if (connected) return `127.0.0.1:${port}`;
    assert(program.exitCode === null && Date.now() < deadline, `${command} does not listen`);
  }
}

const CLAIMS = { sub: "page", read: ["chat"], write: ["chat"], may: { read: ["room:*"], write: ["room:*"] } };

for (const [name, proxy] of Object.entries(PROXIES)) {
  test(`Chromium behind ${name} that refuses upgrades`, { timeout: 90_000 }, async (t) => {
    const settings = { PHILOTE_HISTORY_MESSAGES: "100", PHILOTE_ADMIN_SOCKET: undefined };
    const philote = await startPhilote(t, settings);
    const address = await startProxy(t, proxy, philote.address);
    const page = await openBrowser(t);
    const query = new URLSearchParams({ server: `ws://${address}/`, token: sign(philote, CLAIMS) });
    await page.goto(`${await startPage(t)}?${query}`);
    const reaches = (what, ...args) => page.waitForFunction(what, ...args);
    await reaches(() => told.states.includes("events") && events.access);
    const states = await page.evaluate(() => told.states);
    assert.deepEqual(states.filter((state) => state === "waiting").length, 2, `two attempts failed before: ${states}`);

    // The room is joined on a stream of its own.
    for (const deadline = Date.now() + 20_000; (await publish(philote, "room:1", '"hall"')).readers < 1; await pause(20)) {
      assert(Date.now() < deadline, "the room is not joined");
    }
    await publish(philote, "chat", '"one"');
    await reaches(() => told.values.includes("room:1 hall") && told.values.includes("chat one"));
    await reaches(() => events.texts.includes('"one"'));

    // What the client publishes does not come back to it, but to the other stream.
    await page.evaluate(() => ["a", "b", "c"].forEach((value) => publish("chat", value)));
    await reaches(() => told.readers.length === 3 && events.texts.length === 4);
    assert.deepEqual(await page.evaluate(() => events.texts.slice(1)), ['"a"', '"b"', '"c"']);
    await page.evaluate(() => publish("forbidden", "x"));
    await reaches(() => told.readers.at(-1) === "forbidden");

    // The server ends the streams; both come back and get what was published meanwhile.
    const answer = await fetch(`http://${philote.address}/api/disconnect`, {
      method: "POST",
      headers: { Authorization: `Bearer ${sign(philote, { api: true })}` },
      body: JSON.stringify({ subject: "page", reconnect: true }),
    });
    assert.equal((await answer.json()).disconnected, 3);
    for (const value of ["two", "three"]) await publish(philote, "chat", JSON.stringify(value));
    await reaches(() => told.values.includes("chat three") && events.texts.includes('"three"'));
    assert.deepEqual(await page.evaluate(() => told.values.filter((value) => value.startsWith("chat"))), ["chat one", "chat two", "chat three"]);
    assert.deepEqual(await page.evaluate(() => [events.texts.slice(4), events.closes]), [['"two"', '"three"'], [1012]]);
    await reaches(() => told.recovered.includes("chat true") && told.recovered.includes("room:1 true"));
    assert.deepEqual(await page.evaluate(() => told.errors), ["forbidden forbidden"]);

    // The browser does not come back after it was told to leave.
    await fetch(`http://${philote.address}/api/disconnect`, {
      method: "POST",
      headers: { Authorization: `Bearer ${sign(philote, { api: true })}` },
      body: JSON.stringify({ subject: "page" }),
    });
    await reaches(() => told.states.at(-1) === "closed" && events.closes.at(-1) === 4403 && events.state() === EventSource.CLOSED);
  });
}

/** A proxy that passes HTTP on, and upgrades only if `upgrades` is set. It answers `answered` of the others, and leaves the rest waiting. */
async function startGate(t, target) {
  const gate = { upgrades: false, refused: 0, answered: Infinity, requests: [] };
  const [host, port] = target.split(":");
  const server = createServer((incoming, response) => {
    gate.requests.push(incoming.method);
    const { method, url: path, headers } = incoming;
    const outgoing = open({ host, port, method, path, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
      answer.on("error", () => response.destroy());
    });
    outgoing.on("error", () => response.destroy());
    response.on("close", () => outgoing.destroy());
    incoming.pipe(outgoing);
  });
  server.on("upgrade", ({ url, headers }, socket, head) => {
    socket.on("error", () => {});
    if (!gate.upgrades) {
      gate.refused += 1;
      if (gate.refused > gate.answered) return;
      return socket.end("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    }
    const upstream = connect(Number(port), host);
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    upstream.write(`GET ${url} HTTP/1.1\r\n${lines.join("")}\r\n`);
    upstream.write(head);
    upstream.pipe(socket).pipe(upstream);
    for (const one of [socket, upstream]) one.on("error", () => {}).on("close", () => (socket.destroy(), upstream.destroy()));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  gate.url = `ws://127.0.0.1:${server.address().port}/`;
  return gate;
}

test("it reads events after two upgrades that nobody answered, and returns to a WebSocket", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { PHILOTE_HISTORY_MESSAGES: "100" });
  const gate = await startGate(t, philote.address);
  const token = () => sign(philote, CLAIMS);
  const { client, heard, reached } = startClient(t, gate.url, { token, backoff: [5, 50] });
  assert.equal((await reached("open")).transport, "events");
  assert.equal(gate.refused, 3, "two attempts, and a check once HTTP works");
  await publish(philote, "chat", "1");
  assert.equal((await heard.values.next()).value, 1);
  assert.equal(await client.publish("chat", 2), 0, "it does not get its own message");
  gate.upgrades = true;
  assert.equal((await reached("open")).transport, "websocket");
  assert.deepEqual(heard.recovered, [{ channel: "chat", recovered: true }]);
  await publish(philote, "chat", "3");
  assert.equal((await heard.values.next()).value, 3);
});

test("it reads no events after an outage in which two upgrades failed", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const gate = await startGate(t, philote.address);
  const { client, reached } = startClient(t, gate.url, { token: () => sign(philote, CLAIMS), backoff: [5, 50] });
  // A third attempt is made by HTTP, so it finds the network mended.
  for (let count = 0; count < 2; count++) await reached("waiting");
  gate.upgrades = true;
  const rooms = Array.from({ length: 100 }, (_, n) => `room:${n}`);
  const joined = Promise.all(rooms.map((room) => client.join(room)));
  assert.equal((await reached("open")).transport, "websocket");
  await joined;
  assert.deepEqual(gate.requests, ["GET"]);
});

test("it reads events if the WebSocket that it tries once more is neither opened nor refused", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const gate = await startGate(t, philote.address);
  gate.answered = 2;
  const { heard, reached } = startClient(t, gate.url, { token: () => sign(philote, CLAIMS), backoff: [5, 50] });
  assert.equal((await reached("open")).transport, "events");
  assert.equal(gate.refused, 3);
  await publish(philote, "chat", "1");
  assert.equal((await heard.values.next()).value, 1);
});

test("it does without events if it may not use them, and after a close code", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const gate = await startGate(t, philote.address);
  const without = startClient(t, gate.url, { token: () => sign(philote, CLAIMS), events: false });
  for (let count = 0; count < 4; count++) await without.reached("waiting");
  without.client.close();
  gate.upgrades = true;
  const refused = startClient(t, gate.url, { token: () => "not a token" });
  for (let count = 0; count < 4; count++) assert.equal((await refused.reached("waiting")).code, 4401);
  assert.deepEqual(gate.requests, []);
});

test("over events a new handler gets the history, a token is replaced, and a refused one is told", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { PHILOTE_HISTORY_MESSAGES: "100" });
  const gate = await startGate(t, philote.address);
  for (const data of ["1", "2"]) await publish(philote, "chat", data);
  let answers = () => sign(philote, CLAIMS);
  const { client, heard, reached } = startClient(t, gate.url, { token: () => answers(), backoff: [5, 20], history: true });
  await reached("open");
  assert.deepEqual([(await heard.values.next()).value, (await heard.values.next()).value], [1, 2]);
  const late = new Inbox();
  client.on("chat", late.put);
  assert.deepEqual([await late.next(), await late.next()], [1, 2]);
  await publish(philote, "chat", "3");
  assert.deepEqual([await late.next(), (await heard.values.next()).value], [3, 3]);

  // Another token needs another stream, which continues where this one was.
  answers = () => sign(philote, { ...CLAIMS, sub: "another" });
  client.refresh();
  await reached("open");
  assert.equal(client.access.subject, "another");
  await publish(philote, "chat", "4");
  assert.deepEqual([await late.next(), (await heard.values.next()).value], [4, 4]);
  assert(heard.recovered.every(({ recovered }) => recovered));

  answers = () => "not a token";
  client.refresh();
  const { code, reason } = await heard.states.until(({ code }) => code === 4401);
  assert.match(reason, /token/, `${code}`);
});
