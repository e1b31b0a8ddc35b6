// nginx, HAProxy and Caddy in front of Philote, with the shipped files; only paths and ports are replaced.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import test from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import WebSocket from "ws";
import { makeAuthority } from "./authority.mjs";
import { BINARIES, DEADLINE, freePort, publish, scratch, sign, startPhilote } from "./philote.mjs";

const run = promisify(execFile);
const EXAMPLES = new URL("../../packaging/proxies/", import.meta.url);
const HOST = "chat.example.org";
const PATIENCE = 30_000;
/** How long a connection is idle that only Philote's pings keep open, at least; five minutes take PHILOTE_IDLE_SECONDS=300. */
const IDLE_SECONDS = Number(process.env.PHILOTE_IDLE_SECONDS ?? 0);
/** Longer than nginx waits by default, which is a minute. */
const IDLE = { timeout: 120_000 + IDLE_SECONDS * 1000 };

/** An example with all of `places` replaced; each must occur in it. */
async function example(file, places) {
  let text = await readFile(new URL(file, EXAMPLES), "utf8");
  for (const [place, ours] of places) {
    assert(text.includes(place), `${place} is not in ${file}`);
    text = text.replaceAll(place, ours);
  }
  return text;
}

/** The settings of Philote in the head of an example. */
const settings = (text) =>
  text
    .split("# /etc/philote/philote.toml:\n")[1]
    .split(/^(?!# {3})/m)[0]
    .replaceAll(/^# {3}/gm, "");

/** Waits until a port has a listener, or the program that should listen has ended. */
async function listening(port, program, said) {
  for (const deadline = Date.now() + PATIENCE; ; ) {
    const socket = connect(port, "127.0.0.1");
    const connected = await once(socket, "connect").then(() => true, () => false);
    socket.destroy();
    if (connected) return;
    assert(program.exitCode === null && Date.now() < deadline, `${program.spawnfile} does not listen: ${said()}`);
    await pause(20);
  }
}

/** Starts a program that serves on a port until the test ends. Returns a function that returns its output. */
async function start(t, port, command, args, environment = {}) {
  const program = spawn(command, args, { env: { ...process.env, ...environment }, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [program.stdout, program.stderr]) stream.on("data", (chunk) => (output += chunk));
  const exited = once(program, "exit");
  t.after(async () => {
    program.kill("SIGTERM");
    await exited;
  });
  await listening(port, program, () => output);
  return () => output;
}

/** A directory with a certificate for the examples' host, and its authority. */
async function place(t) {
  const directory = await scratch(t);
  const authority = await makeAuthority(directory);
  const [certificate, key] = ["fullchain.pem", "privkey.pem"].map((name) => join(directory, name));
  await authority.issue([HOST], certificate, key);
  return { directory, authority, certificate, key };
}

/**
 * How each proxy is started: `write` returns the example with paths and ports replaced, and `serve` starts the program with
 * such a text. `logs` reads its logs.
 */
const PROXIES = {
  nginx: {
    write: ({ directory, certificate, key }, port) =>
      example("nginx.conf", [
        ["127.0.0.1:6380", "127.0.0.1:0"],
        ["/run/philote/", `${directory}/`],
        ["listen 443", `listen 127.0.0.1:${port}`],
        ["listen [::]:443", `listen [::1]:${port}`],
        ["/etc/letsencrypt/live/chat.example.org/fullchain.pem", certificate],
        ["/etc/letsencrypt/live/chat.example.org/privkey.pem", key],
        ["/var/log/nginx/", `${directory}/`],
      ]),
    async serve(t, { directory }, port, text) {
      const [own, included] = [join(directory, `nginx-${port}.conf`), join(directory, `philote-${port}.conf`)];
      await writeFile(included, text);
      const scratch = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((name) => `${name}_temp_path ${directory}/${name};`);
      const head = `daemon off; master_process off; pid ${directory}/nginx-${port}.pid; error_log stderr;`;
      await writeFile(own, `${head}\nevents {}\nhttp { ${scratch.join(" ")} include ${included}; }\n`);
      return start(t, port, "/usr/sbin/nginx", ["-p", directory, "-e", "stderr", "-c", own]);
    },
    logs: ({ directory }) => Promise.all(["philote.log", "philote-error.log"].map((name) => readFile(join(directory, name), "utf8"))),
    keepsPort: false,
    unavailable: 502,
    patience: /^ *proxy_(read|send)_timeout .*\n/gm,
  },
  HAProxy: {
    async write({ directory, certificate, key }, port, inner) {
      const both = join(directory, "both.pem");
      await writeFile(both, (await readFile(certificate, "utf8")) + (await readFile(key, "utf8")));
      return example("haproxy.cfg", [
        ["127.0.0.1:6380", "127.0.0.1:0"],
        ["127.0.0.1:6381", `127.0.0.1:${inner}`],
        ["bind :443", `bind 127.0.0.1:${port}`],
        ["/etc/haproxy/certs/chat.example.org.pem", both],
      ]);
    },
    async serve(t, { directory }, port, text) {
      const [global, appended] = [join(directory, "global.cfg"), join(directory, `philote-${port}.cfg`)];
      await writeFile(global, "global\n  log stdout format raw local0\n");
      await writeFile(appended, text);
      return start(t, port, "/usr/sbin/haproxy", ["-db", "-f", global, "-f", appended]);
    },
    logs: (place, said) => [said()],
    keepsPort: true,
    unavailable: 503,
    patience: /^ *timeout tunnel .*\n/gm,
  },
  Caddy: {
    write: ({ directory }) =>
      example("Caddyfile", [
        ["127.0.0.1:6380", "127.0.0.1:0"],
        ["/run/philote/", `${directory}/`],
        ["/var/log/caddy/", `${directory}/`],
      ]),
    async serve(t, { directory, certificate, key }, port, text) {
      // Its ports come from the options at the top, and it has no authority from which to request a certificate.
      const options = ["admin off", "auto_https disable_redirects", "default_bind 127.0.0.1", `http_port ${await freePort()}`];
      const changed = text
        .replace(/^\{\n/m, `{\n\t${[...options, `https_port ${port}`].join("\n\t")}\n`)
        .replace(`${HOST} {\n`, `${HOST} {\n\ttls ${certificate} ${key}\n`);
      const config = join(directory, "Caddyfile");
      await writeFile(config, changed);
      return start(t, port, "/usr/bin/caddy", ["run", "--config", config], { HOME: directory });
    },
    logs: async ({ directory }, said) => [await readFile(join(directory, "philote.log"), "utf8"), said()],
    keepsPort: false,
    unavailable: 502,
  },
};

/** Starts Philote with the settings of an example with ports replaced, and the proxy in front of it. */
async function startBoth(t, proxy, environment = {}, change = (text) => text) {
  const at = await place(t);
  const [port, inner] = [await freePort(), await freePort()];
  const text = change(await proxy.write(at, port, inner));
  const config = join(at.directory, "philote.toml");
  await writeFile(config, settings(text));
  const philote = await startPhilote(t, { PORT: undefined, PHILOTE_CONFIG: config, ...environment });
  const said = await proxy.serve(t, at, port, text);
  return { at, port, inner, text, philote, said };
}

/** A client's request to a proxy, from one of this machine's addresses; it claims another address. */
function dial({ at, port }, target, { from = "127.0.0.1", headers = {} } = {}) {
  return new WebSocket(`wss://127.0.0.1:${port}${target}`, {
    ca: at.authority.ca,
    servername: HOST,
    localAddress: from,
    headers: { Host: `${HOST}:${port}`, "X-Forwarded-For": "203.0.113.9", Forwarded: "for=203.0.113.9", ...headers },
  });
}

/** An open WebSocket, its own address, and the messages that it receives. */
async function open(both, target, options) {
  const socket = dial(both, target, options);
  const upgraded = once(socket, "upgrade");
  await once(socket, "open");
  const [{ socket: tls }] = await upgraded;
  const messages = [];
  const waiting = [];
  socket.on("message", (bytes) => {
    const message = JSON.parse(bytes);
    const wanted = waiting.shift();
    if (wanted) wanted(message);
    else messages.push(message);
  });
  const next = () => (messages.length ? Promise.resolve(messages.shift()) : new Promise((resolve) => waiting.push(resolve)));
  return { socket, next, address: `${tls.localAddress}:${tls.localPort}` };
}

/** The status of a refused request. */
const refusal = (both, target, options) =>
  new Promise((resolve, reject) => {
    const socket = dial(both, target, options);
    socket.on("open", () => reject(new Error("it was admitted")));
    socket.on("unexpected-response", (request, answer) => {
      answer.resume();
      request.destroy();
      resolve(answer.statusCode);
    });
    socket.on("error", () => {});
  });

/** A proxy's logs, once one of them has a line with this text. */
async function logged(proxy, { at, said }, line) {
  for (const deadline = Date.now() + PATIENCE; ; await pause(20)) {
    const logs = await proxy.logs(at, said);
    if (logs.some((log) => line.test(log))) return logs;
    assert(Date.now() < deadline, `no ${line} in: ${logs.join("\n")}`);
  }
}

/** The open, closed and refused connections that philotectl lists. */
async function connections(philote, ...args) {
  const { stdout } = await run(join(BINARIES, "philotectl"), ["connections", "--json", ...args], { env: philote.settings });
  return JSON.parse(stdout).connections;
}

for (const [name, proxy] of Object.entries(PROXIES)) {
  test(`${name} passes on the addresses of clients`, DEADLINE, async (t) => {
    const both = await startBoth(t, proxy, { CHECK_ORIGIN: "true" });
    const { philote, port } = both;
    const token = (sub) => sign(philote, { read: ["c"], write: ["c"], sub });
    const expected = ({ address }) => (proxy.keepsPort ? address : address.replace(/:\d+$/, ":0"));

    const alice = await open(both, `/socket?auth=${token("alice")}`, { from: "127.0.0.7", headers: { Origin: `https://${HOST}:${port}` } });
    const bob = await open(both, "/socket", { from: "127.0.0.8", headers: { Authorization: `Bearer ${token("bob")}` } });
    // The header of a client without a proxy is ignored.
    const carol = new WebSocket(`ws://${philote.address}/?auth=${token("carol")}`, { headers: { "X-Forwarded-For": "203.0.113.9" } });
    await once(carol, "open");
    const seen = Object.fromEntries((await connections(philote)).map(({ subject, address }) => [subject, address]));
    assert.match(seen.carol, /^127\.0\.0\.1:\d+$/);
    assert.deepEqual(seen, { alice: expected(alice), bob: expected(bob), carol: seen.carol });

    // Messages in both directions, small ones and ones of the maximum size.
    for (const data of ["hello", "x".repeat(60_000)]) {
      alice.socket.send(JSON.stringify({ channel: "c", data }));
      assert.equal((await bob.next()).data, data);
      bob.socket.send(JSON.stringify({ channel: "c", data }));
      assert.equal((await alice.next()).data, data);
    }
    // The API is only for this machine.
    await publish(philote, "c", "from a backend");
    assert.deepEqual([(await alice.next()).data, (await bob.next()).data], ["from a backend", "from a backend"]);
    assert.equal(await refusal(both, `/api/info?auth=${sign(philote, { api: true })}`), 404);

    // Rejections reach the client, and are listed with its address.
    const forged = sign({ secret: "another secret, of more than thirty-two characters" }, { read: ["c"] });
    assert.equal(await refusal(both, `/socket?auth=${forged}`, { from: "127.0.0.9" }), 401);
    assert.equal(await refusal(both, `/socket?auth=${token("eve")}`, { headers: { Origin: "https://example.com" } }), 403);
    const [refused] = await connections(philote, "--state", "closed", "--reason", "bad_signature");
    assert.match(refused.address, /^127\.0\.0\.9:\d+$/);

    // So does the end of a connection. Without a server behind it, the proxy answers itself.
    const closed = once(alice.socket, "close");
    bob.socket.close();
    carol.close();
    await philote.stop();
    assert.equal((await closed)[0], 1001);
    assert.equal(await refusal(both, `/socket?auth=${token("alice")}`), proxy.unavailable);

    // Everything has been logged, without a token.
    const logs = await logged(proxy, both, new RegExp(`/socket.*\\b${proxy.unavailable}\\b|\\b${proxy.unavailable}\\b.*/socket`));
    for (const log of logs) assert(!/auth=(?!hidden)|eyJ/.test(log), `a token in a log of ${name}: ${log}`);
  });
}

test("a silent connection lasts longer than the proxies' default timeouts", IDLE, async (t) => {
  // Philote sends no ping for an hour, so that only the proxies' timeouts count.
  const silent = { PHILOTE_WEBSOCKET_PING_INTERVAL: "1h" };
  const waits = Object.values(PROXIES).map(async (proxy) => {
    const both = await startBoth(t, proxy, silent);
    const target = `/socket?auth=${sign(both.philote, { read: ["c"] })}`;
    const patient = await open(both, target);
    return { proxy, both, target, patient };
  });
  const started = await Promise.all(waits);
  // A load balancer that ends connections after a minute without a byte, and Philote with its defaults.
  const pinged = await startBoth(t, PROXIES.HAProxy, {}, (text) => {
    const strict = text.replace(/^( *timeout tunnel) .*$/gm, "$1 60s");
    assert.notEqual(strict, text);
    return strict;
  });
  const idle = await open(pinged, `/socket?auth=${sign(pinged.philote, { read: ["c"] })}`);
  const began = performance.now();
  let pings = 0;
  idle.socket.on("ping", () => pings++);
  idle.socket.on("close", (code) => assert.fail(`closed with ${code} after ${performance.now() - began} ms`));
  // Beside each runs a proxy without the lines that extend its timeout: it ends silent connections, which tells how long to wait.
  const impatient = started.filter(({ proxy }) => proxy.patience).map(async ({ proxy, both, target }) => {
    const port = await freePort();
    const text = both.text.replaceAll(String(both.port), String(port));
    assert(proxy.patience.test(text));
    await proxy.serve(t, both.at, port, text.replaceAll(proxy.patience, ""));
    const { socket } = await open({ ...both, port }, target);
    await once(socket, "close");
  });
  assert.equal(impatient.length, 2);
  await Promise.all(impatient);
  await pause(Math.max(0, began + IDLE_SECONDS * 1000 - performance.now()));
  await publish(pinged.philote, "c", "after a long time");
  assert.equal((await idle.next()).data, "after a long time");
  t.diagnostic(`idle for ${Math.round((performance.now() - began) / 1000)} s, with ${pings} pings`);
  idle.socket.removeAllListeners("close").close();
  for (const { both, patient } of started) {
    await publish(both.philote, "c", "still here");
    assert.equal((await patient.next()).data, "still here");
    patient.socket.close();
    await once(patient.socket, "close");
  }
});
