// The programs of philote-recipes(7) run unchanged, except for the server's address, against PostgreSQL.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import test from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import WebSocket from "ws";
import { DEADLINE, freePort, publish, PYTHON, scratch, sign, startPhilote } from "./philote.mjs";
import { startPostgres } from "./postgres.mjs";
import { program } from "./programs.mjs";

/** Starts NATS with JetStream, and a node of a cluster with a history that is ready. */
async function startCluster(t, history) {
  const [directory, port] = [await mkdtemp(join(tmpdir(), "philote-nats-")), await freePort()];
  const nats = spawn("/usr/sbin/nats-server", ["-a", "127.0.0.1", "-p", String(port), "-js", "-sd", directory], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const exited = once(nats, "exit");
  t.after(async () => {
    nats.kill("SIGTERM");
    await exited;
    await rm(directory, { recursive: true });
  });
  let log = "";
  while (!log.includes("Server is ready")) log += (await once(nats.stderr, "data"))[0];
  nats.stderr.resume();
  const philote = await startPhilote(t, {
    PHILOTE_CLUSTER_SERVERS: `nats://127.0.0.1:${port}`,
    PHILOTE_CLUSTER_NAME: "one",
    PHILOTE_HISTORY_MESSAGES: String(history),
  });
  const ready = async () => (await fetch(`http://${philote.address}/health/ready`)).status;
  for (const deadline = Date.now() + 30_000; (await ready()) !== 200; await pause(20)) assert(Date.now() < deadline);
  return philote;
}

/** Runs a program of the manual with a token until it ends or is killed. Its complaints are kept. */
function start(t, name, server, environment) {
  const child = spawn(PYTHON, ["-c", program(name, server)], {
    env: { PYTHONUTF8: "1", ...environment },
    stdio: ["ignore", "inherit", "pipe"],
  });
  child.complaints = "";
  child.stderr.on("data", (chunk) => (child.complaints += chunk));
  const exited = once(child, "exit");
  const kill = () => {
    child.kill("SIGKILL");
    return exited;
  };
  t.after(kill);
  return { child, kill };
}

/** Opens a connection that reads `channels`; `data` is the data of all messages so far. */
async function listen(t, philote, channels, sub) {
  const socket = new WebSocket(`ws://${philote.address}/?auth=${sign(philote, { read: channels, sub })}`);
  t.after(() => socket.terminate());
  const data = [];
  socket.on("message", (frame) => data.push(JSON.parse(frame).data));
  await once(socket, "open");
  return {
    data,
    async until(count) {
      while (data.length < count) await once(socket, "message");
    },
    async close() {
      socket.close();
      await once(socket, "close");
    },
  };
}

/**
 * Passes the requests of workers on to a server. `fates` says at which request which moment comes: "asked" before the request is
 * passed on, "published" before its answer is, and "answered" after it. At each moment `fall(token)` is called.
 */
async function startObserver(t, philote, fates, fall) {
  const observer = { requests: 0, repeated: 0, askers: [] };
  const server = createServer(async (request, response) => {
    const fate = fates.get(observer.requests++);
    const token = request.headers.authorization;
    if (observer.askers.at(-1) !== token) observer.askers.push(token);
    const { method, url, headers } = request;
    let body = "";
    for await (const chunk of request) body += chunk;
    if (fate === "asked") return fall(token);
    const answer = await fetch(`http://${philote.address}${url}`, { method, headers: { authorization: headers.authorization }, body });
    const text = await answer.text();
    if (text.includes('"repeated":true')) observer.repeated += 1;
    if (fate === "published") return fall(token);
    response.writeHead(answer.status, { "content-length": Buffer.byteLength(text) });
    response.end(text, () => fate === "answered" && fall(token));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  observer.address = `127.0.0.1:${server.address().port}`;
  return observer;
}

test("recipes: no message of outbox.py is lost or comes twice, whenever the worker is killed", DEADLINE, async (t) => {
  const [philote, postgres] = await Promise.all([startCluster(t, 1000), startPostgres(t)]);
  await postgres.query(program("outbox.sql", philote));
  await postgres.query("CREATE TABLE orders (number int PRIMARY KEY, state text); INSERT INTO orders VALUES (17, 'new')");
  const reader = await listen(t, philote, ["order:17", "other"]);

  // Two workers at any time, of which one waits; a killed one is replaced.
  const workers = new Map();
  const enter = () => {
    const token = sign(philote, { api: ["publish"], jti: String(workers.size) });
    workers.set(`Bearer ${token}`, start(t, "outbox.py", observer, { TOKEN: token, DATABASE: postgres.where }));
  };
  let killed = 0;
  const fates = new Map([[1, "asked"], [4, "published"], [8, "answered"], [16, "published"], [24, "asked"], [32, "published"]]);
  const observer = await startObserver(t, philote, fates, async (token) => {
    await workers.get(token).kill();
    killed += 1;
    enter();
  });
  enter();
  enter();

  const shop = postgres.session();
  await shop.run(program("pay.sql", philote));
  const expected = ['{"state": "paid"}'];
  for (let at = 0; at < 40; at += 1) {
    const committed = at % 4 !== 3;
    await shop.run(`BEGIN; INSERT INTO outbox (channel, data) VALUES ('order:17', '${at} a'), ('other', '${at} b');`);
    await shop.run(committed ? "COMMIT;" : "ROLLBACK;");
    if (committed) expected.push(`${at} a`, `${at} b`);
    if (at === 20) await shop.run("INSERT INTO outbox (channel, data) VALUES ('other', repeat('x', 1000000));");
  }
  await shop.end();
  await postgres.until("SELECT count(*) FROM outbox WHERE refused IS NULL", "0");
  // Nothing comes after them: what the workers have published is ahead of this message.
  await publish(philote, "other", "end");
  await reader.until(expected.length + 1);
  assert.deepEqual(reader.data, [...expected, "end"]);
  assert.equal(killed, fates.size);
  assert(observer.repeated >= 3, `${observer.repeated} messages were sent again after they were published`);
  // One worker at a time: another one asks only when the one before was killed.
  assert.equal(observer.askers.length, killed + 1);
  assert.match(await postgres.query("SELECT refused FROM outbox"), /data is longer than max_message_size/);
  assert.equal(await postgres.query("SELECT state FROM orders"), "paid");
});

test("recipes: rooms.py knows the members and counts each visit once, whenever it is killed", DEADLINE, async (t) => {
  const settings = { PORT: String(await freePort()), PHILOTE_PRESENCE_GRACE: "0s" };
  const [first, postgres] = await Promise.all([startPhilote(t, settings), startPostgres(t)]);
  await postgres.query(program("rooms.sql", first));
  const enter = (philote, sub) => listen(t, philote, ["room:1"], sub);
  const members = "SELECT string_agg(subject, ' ' ORDER BY subject) FROM members";
  const visits = "SELECT string_agg(event || ' ' || subject, ', ' ORDER BY ctid) FROM visits";
  const environment = { TOKEN: sign(first, { api: true }), DATABASE: postgres.where };

  const headers = { Authorization: `Bearer ${environment.TOKEN}` };
  const { body } = await fetch(`http://${first.address}/api/events?channel=room:1`, { headers });
  const events = createInterface({ input: Readable.fromWeb(body) })[Symbol.asyncIterator]();
  const ann = await enter(first, "ann");
  let worker = start(t, "rooms.py", first, environment);
  await postgres.until(members, "ann");
  const told = [];
  const joins = (sub) => {
    told.push(`joined ${sub}`);
    return enter(first, sub);
  };
  const leaves = async (sub, connection) => {
    told.push(`left ${sub}`);
    await connection.close();
    // A return before the server has noticed would be no event.
    for (let event = {}; event.event !== "left" || event.subject !== sub; ) event = JSON.parse((await events.next()).value);
  };
  const bob = await joins("bob");
  await postgres.until(visits, told.join(", "));

  // In the middle of a transaction, behind a lock.
  const lock = postgres.session();
  await lock.run("BEGIN; LOCK TABLE visits IN EXCLUSIVE MODE;");
  const cy = await joins("cy");
  await postgres.until("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'", "1");
  await worker.kill();
  // Otherwise the server would still finish the statement, and only then notice that its client is gone.
  await postgres.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'");
  await lock.run("ROLLBACK;");
  await leaves("bob", bob);
  worker = start(t, "rooms.py", first, environment);
  await postgres.until(visits, told.join(", "));
  assert.equal(await postgres.query(members), "ann cy");

  // Between two events, while members come and go.
  await worker.kill();
  await leaves("cy", cy);
  await joins("cy");
  await leaves("ann", ann);
  worker = start(t, "rooms.py", first, environment);
  await postgres.until(visits, told.join(", "));
  assert.equal(await postgres.query(members), "cy");

  // A new server knows nothing of what came before: the worker reconnects, and loads the members again.
  await Promise.all([first.stop(), once(worker.child.stderr, "data")]);
  const second = await startPhilote(t, { ...settings, SECRET: first.secret });
  second.secret = first.secret;
  await enter(second, "dora");
  await postgres.until(members, "dora");
  assert.equal(await postgres.query("SELECT count(*) FROM position"), "1");
});

for (const kind of ["one server", "a cluster"]) {
  test(`recipes: notify.py sends a mail if nobody reads along, on ${kind}`, DEADLINE, async (t) => {
    const philote = kind === "a cluster" ? await startCluster(t, 0) : await startPhilote(t);
    const directory = await scratch(t);
    const mail = join(directory, "mail");
    await writeFile(join(directory, "sendmail"), `#!/bin/sh\necho "$@" >>'${mail}'\ncat >>'${mail}'\n`);
    await chmod(join(directory, "sendmail"), 0o755);
    const env = {
      PATH: `${directory}${delimiter}${process.env.PATH}`,
      TOKEN: sign(philote, { api: ["publish", "channels"] }),
      PYTHONUTF8: "1",
    };
    const notify = async (text) => {
      const options = ["-c", program("notify.py", philote), "ann", "ann@example.org", text];
      return (await promisify(execFile)(PYTHON, options, { env })).stdout.trim();
    };
    assert.equal(await notify("on its way"), "0");
    assert.equal(await readFile(mail, "utf8"), "-t -i\nTo: ann@example.org\nSubject: News for ann\n\non its way\n");
    await rm(mail);
    const ann = await listen(t, philote, ["user:ann"], "ann");
    assert.equal(await notify("here"), "1");
    await ann.until(1);
    assert.deepEqual(ann.data, ["here"]);
    await assert.rejects(readFile(mail), /ENOENT/);
  });
}
