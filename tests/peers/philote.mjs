// A Philote for one test, with a free port, its own secret and its own directory. It ends with the test.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { appendFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import jwt from "jsonwebtoken";

/** Set by tests/run: the directory of the binaries, and the Python that has the packages. */
export const { PHILOTE_BINARIES: BINARIES, PHILOTE_PYTHON: PYTHON } = process.env;
const { PHILOTE_TEST_OUTPUT: OUTPUT } = process.env;
assert(BINARIES && PYTHON, "these tests are run by tests/run, which sets PHILOTE_BINARIES and PHILOTE_PYTHON");

/** The time limit of a whole test in milliseconds, so that a missing event is a failure and not a hang. */
export const DEADLINE = { timeout: 60_000 };

/**
 * Starts a daemon and waits until it prints its address.
 * `environment` adds to its variables; a value of `undefined` removes one. `stop` ends the daemon before the test ends,
 * `signal` sends it a signal, and `says` waits until its output matches a pattern.
 */
export async function startPhilote(t, environment = {}, options = []) {
  const directory = await mkdtemp(join(tmpdir(), "philote-"));
  // An empty file of settings, so that /etc/philote of this machine does not affect the test.
  await writeFile(join(directory, "philote.toml"), "");
  const secret = randomBytes(32).toString("base64url");
  const settings = {
    PATH: process.env.PATH,
    SECRET: secret,
    PORT: "0",
    STATE_DIRECTORY: directory,
    PHILOTE_CONFIG: join(directory, "philote.toml"),
    PHILOTE_ADMIN_SOCKET: join(directory, "admin.sock"),
    ...environment,
  };
  const daemon = spawn(join(BINARIES, "philote"), options, { env: settings, stdio: ["ignore", "pipe", "pipe"] });
  const philote = { secret, directory, settings, output: "" };

  const exited = once(daemon, "exit");
  philote.signal = (name) => daemon.kill(name);
  philote.stop = () => {
    philote.signal("SIGTERM");
    return exited;
  };
  t.after(async () => {
    const [status] = await philote.stop();
    await rm(directory, { recursive: true });
    // The one token that the daemon prints by design.
    const kept = options.includes("--dev") ? philote.output.replace(/^token +\S+$/gm, "token") : philote.output;
    if (OUTPUT) await appendFile(join(OUTPUT, `${process.pid}.peers`), kept);
    assert(!philote.output.includes(settings.SECRET ?? secret), "the secret is in the log");
    assert.equal(status, 0, `philote ended with ${status}:\n${philote.output}`);
  });

  philote.says = (pattern) =>
    new Promise((resolve, reject) => {
      const read = () => {
        const found = pattern.exec(philote.output);
        if (found) resolve(found);
      };
      for (const output of [daemon.stdout, daemon.stderr]) output.on("data", read);
      read();
      exited.then(() => reject(new Error(`philote ended without saying ${pattern}:\n${philote.output}`)), reject);
    });
  for (const output of [daemon.stdout, daemon.stderr]) output.on("data", (chunk) => (philote.output += chunk));
  philote.address = `127.0.0.1:${(await philote.says(/listening on \S*:(\d+)/))[1]}`;
  return philote;
}

/** Signs a token as the published clients do: without `exp`. */
export const sign = (philote, claims) => jwt.sign(claims, philote.secret);

/** Publishes one message over HTTP as a backend does; returns the daemon's answer. */
export async function publish(philote, channel, data) {
  const answer = await fetch(`http://${philote.address}/api/publish`, {
    method: "POST",
    headers: { Authorization: `Bearer ${sign(philote, { api: true })}` },
    body: JSON.stringify({ channel, data }),
  });
  assert.equal(answer.status, 200, await answer.clone().text());
  return (await answer.json()).published[0];
}

/** A directory that exists until the test ends. */
export async function scratch(t) {
  const directory = await mkdtemp(join(tmpdir(), "philote-test-"));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

/** A free port. */
export async function freePort() {
  const server = createServer();
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Opens an empty page in Debian's Chromium, which can reach only the pages of the test. `home` may contain trusted certificates. */
export async function openBrowser(t, home = process.env.HOME) {
  const browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    env: { ...process.env, HOME: home },
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
  t.after(() => browser.close());
  return browser.newPage();
}
