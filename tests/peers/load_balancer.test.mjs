// HAProxy in front of a cluster, with the shipped file; only paths, addresses and ports are replaced.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import test from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import WebSocket from "ws";
import { makeAuthority } from "./authority.mjs";
import { BINARIES, DEADLINE, freePort, scratch, sign, startPhilote } from "./philote.mjs";

const run = promisify(execFile);
const EXAMPLE = new URL("../../packaging/proxies/haproxy-cluster.cfg", import.meta.url);
const HOST = "chat.example.org";
const SECRET = "the secret that all nodes of this test share";
const PATIENCE = 30_000;

/** Replaces all of `places`; each must occur. */
function replaced(text, places) {
  for (const [place, ours] of places) {
    assert(text.includes(place), `${place} is not in the example`);
    text = text.replaceAll(place, ours);
  }
  return text;
}

async function until(what, holds) {
  for (const deadline = Date.now() + PATIENCE; !(await holds()); await pause(20)) assert(Date.now() < deadline, `timed out: ${what}`);
}

const listens = (port) =>
  new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => resolve(true));
    socket.on("error", () => resolve(false)).on("connect", () => socket.destroy());
  });

/** Starts a program that serves on a port until the test ends. */
async function start(t, port, command, args) {
  const program = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  program.output = "";
  for (const stream of [program.stdout, program.stderr]) stream.on("data", (chunk) => (program.output += chunk));
  const exited = once(program, "exit");
  t.after(async () => {
    program.kill("SIGKILL");
    await exited;
  });
  await until(`${command} listens`, () => listens(port));
  return program;
}

/** The comment at the top of the example, and its settings. */
async function example() {
  const text = await readFile(EXAMPLE, "utf8");
  const [head] = text.split(/\n(?!#)/, 1);
  return [head, text.slice(head.length)];
}

/** HAProxy in front of two nodes, with the settings of the example. */
async function startBalancer(t, directory, nodes) {
  const authority = await makeAuthority(directory);
  const [certificate, key, both] = ["fullchain.pem", "privkey.pem", "both.pem"].map((name) => join(directory, name));
  await authority.issue([HOST], certificate, key);
  await writeFile(both, (await readFile(certificate, "utf8")) + (await readFile(key, "utf8")));
  const [port, apiPort] = [await freePort(), await freePort()];
  const [config, appended] = [join(directory, "global.cfg"), join(directory, "haproxy-cluster.cfg")];
  await writeFile(config, "global\n  log stdout format raw local0\n");
  const [, settings] = await example();
  await writeFile(
    appended,
    replaced(settings, [
      ["10.0.0.11:6380", nodes[0].address],
      ["10.0.0.12:6380", nodes[1].address],
      ["bind :443", `bind 127.0.0.1:${port}`],
      ["bind 10.0.0.10:6380", `bind 127.0.0.1:${apiPort}`],
      ["/etc/haproxy/certs/chat.example.org.pem", both],
    ]),
  );
  const balancer = await start(t, port, "/usr/sbin/haproxy", ["-db", "-f", config, "-f", appended]);
  return { authority, port, apiPort, balancer };
}

/** NATS, two nodes that are ready, and HAProxy, all with the settings of the example. */
async function startAll(t) {
  const directory = await scratch(t);
  const natsPort = await freePort();
  const nats = await start(t, natsPort, "/usr/sbin/nats-server", ["-a", "127.0.0.1", "-p", String(natsPort)]);

  const [head] = await example();
  const settings = replaced(head.split("of the first node:\n")[1].replaceAll(/^# {3}/gm, ""), [
    ["10.0.0.11:6380", "127.0.0.1:0"],
    ["10.0.0.10", "127.0.0.1"],
    ["10.0.0.20:4222", `127.0.0.1:${natsPort}`],
  ]);
  const nodes = [];
  for (const name of ["philote-1", "philote-2"]) {
    const config = join(directory, `${name}.toml`);
    await writeFile(config, settings.replace("philote-1", name));
    nodes.push(await startPhilote(t, { PORT: undefined, SECRET, PHILOTE_CONFIG: config }));
  }
  await until("both nodes are ready", async () => (await Promise.all(nodes.map(ready))).every((status) => status === 200));

  return { nats, nodes, ...(await startBalancer(t, directory, nodes)) };
}

const ready = async (node) => (await fetch(`http://${node.address}/health/ready`)).status;

/** A WebSocket by the load balancer, and what it receives. */
async function open({ authority, port }, claims) {
  const socket = new WebSocket(`wss://127.0.0.1:${port}/?auth=${sign({ secret: SECRET }, claims)}`, {
    ca: authority.ca,
    servername: HOST,
    headers: { Host: HOST, "X-Forwarded-For": "203.0.113.9" },
  });
  const messages = [];
  socket.on("message", (bytes) => messages.push(JSON.parse(bytes)));
  await once(socket, "open");
  return { socket, messages };
}

/** The connections of one node. */
async function connections(node) {
  const { stdout } = await run(join(BINARIES, "philotectl"), ["connections", "--local", "--json"], { env: node.settings });
  return JSON.parse(stdout).connections;
}

const publish = (at, data) =>
  fetch(`http://${at}/api/publish`, {
    method: "POST",
    headers: { Authorization: `Bearer ${sign({ secret: SECRET }, { api: true })}` },
    body: JSON.stringify({ channel: "c", data }),
  });

test("the shipped load balancer spreads clients over the nodes, and prefers those that are ready", DEADLINE, async (t) => {
  const all = await startAll(t);
  const { nodes, nats, port, apiPort, authority, balancer } = all;
  const clients = [await open(all, { read: ["c"], sub: "alice" }), await open(all, { read: ["c"], sub: "bob" })];
  const lists = await Promise.all(nodes.map(connections));
  assert.deepEqual(lists.map((list) => list.length), [1, 1], "each node has one of two clients");
  for (const [{ address }] of lists) assert.match(address, /^127\.0\.0\.1:/);

  // Backends publish by the load balancer, and clients of both nodes get it. The public side has no API.
  assert.equal((await publish(`127.0.0.1:${apiPort}`, "hello")).status, 200);
  await until("both have the message", () => clients.every(({ messages }) => messages.some(({ data }) => data === "hello")));
  const outside = new WebSocket(`wss://127.0.0.1:${port}/api/info`, { ca: authority.ca, servername: HOST });
  const [, answer] = await once(outside.on("error", () => {}), "unexpected-response");
  assert.equal(answer.statusCode, 404);
  outside.terminate();

  // A node stops: its client comes back and gets the other one.
  const moved = lists[0][0].subject === "alice" ? clients[0] : clients[1];
  const closed = once(moved.socket, "close");
  await nodes[0].stop();
  assert.equal((await closed)[0], 1001);
  const back = await open(all, { read: ["c"], sub: "back" });
  assert.deepEqual((await connections(nodes[1])).map(({ subject }) => subject).sort(), ["alice", "back", "bob"].filter((name) => name !== lists[0][0].subject));

  // Without NATS no node is ready, and clients still get one that serves.
  nats.kill("SIGKILL");
  await until("the node is not ready", async () => (await ready(nodes[1])) === 503);
  await until("the load balancer has noticed", () => /philote_ready.* has no server available/.test(balancer.output));
  const last = await open(all, { read: ["c"], sub: "last" });
  assert.equal((await publish(`127.0.0.1:${apiPort}`, "local")).status, 200);
  await until("they have the message", () => [back, last].every(({ messages }) => messages.some(({ data }) => data === "local")));
  for (const { socket } of [...clients, back, last]) socket.terminate();
});

/** A node that is ready and answers all else with 503. `asked` has the methods of these requests. */
async function startRefusing(t, asked) {
  const server = createServer((request, response) => {
    const ready = request.url === "/health/ready";
    if (!ready) asked.push(request.method);
    response.writeHead(ready ? 200 : 503).end();
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => server.close().closeAllConnections());
  return { address: `127.0.0.1:${server.address().port}` };
}

// A message that was answered 503 may have been published, and another node would publish it a second time.
test("the shipped load balancer repeats a GET that a node answers with 503, and no POST", DEADLINE, async (t) => {
  const asked = [];
  const nodes = [await startRefusing(t, asked), await startRefusing(t, asked)];
  const { apiPort } = await startBalancer(t, await scratch(t), nodes);
  assert.equal((await publish(`127.0.0.1:${apiPort}`, "once")).status, 503);
  assert.deepEqual(asked.splice(0), ["POST"]);
  assert.equal((await fetch(`http://127.0.0.1:${apiPort}/`)).status, 503);
  assert.deepEqual(asked, ["GET", "GET", "GET"]);
});
