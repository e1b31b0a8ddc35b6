// The clients of packaging/npm, in Chromium, and of packaging/python keep 10,000 numbered messages complete and in order
// through restarts, cuts and expiry.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import test from "node:test";
import jwt from "jsonwebtoken";
import WebSocket from "ws";
import { openBrowser, PYTHON, startPhilote } from "./philote.mjs";
import { startProxy } from "./proxy.mjs";

const MESSAGES = 10_000;
/** The number of messages that the daemon keeps of a channel. */
const KEPT = 1_500;
/** The publisher's rate: this number of messages at this interval in milliseconds. */
const BATCH = 5;
const PAUSE = 40;
/** The messages that are missed in each gap at least, however slow the machine is. */
const ENOUGH = 50;
const CUT = 5_000;
/** Seconds. */
const TOKEN_LASTS = 15;
const SECRET = "the secret that outlives three daemons";
const SETTINGS = { SECRET, PHILOTE_HISTORY_MESSAGES: String(KEPT), PHILOTE_AUTH_LEEWAY: "0s" };

const sign = (claims, options) => jwt.sign(claims, SECRET, options);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** The application's backend: the page, tokens, and a record of the published messages. */
async function startBackend(t, backend) {
  const files = {
    "/": ["text/html", new URL("client_conversation.html", import.meta.url)],
    "/philote.js": ["text/javascript", new URL("../../packaging/npm/philote.js", import.meta.url)],
  };
  const server = createServer(async ({ url }, response) => {
    const { pathname, searchParams } = new URL(url, "http://x");
    if (pathname === "/token") {
      if (backend.refuses) return response.writeHead(503).end("no tokens now");
      backend.tokens += 1;
      return response.end(
        sign({ sub: "page", read: ["numbers", "quiet"], write: ["answers"] }, { expiresIn: TOKEN_LASTS }),
      );
    }
    if (pathname === "/log") {
      const after = Number(searchParams.get("after"));
      return response.end(JSON.stringify(Array.from({ length: backend.published - after }, (_, n) => after + n + 1)));
    }
    if (!(pathname in files)) return response.writeHead(404).end();
    const [type, path] = files[pathname];
    response.setHeader("Content-Type", type);
    response.end(await readFile(path));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => server.close());
  return `http://127.0.0.1:${server.address().port}/`;
}

/** The application in Chromium; `reaches` waits until its record fits, which `read` returns. */
async function startPage(t, backend, address) {
  const page = await openBrowser(t);
  const failures = [];
  page.on("pageerror", (error) => failures.push(error.message));
  await page.goto(`${backend}#${address}`);
  return {
    failures,
    reaches: (fits, wanted) =>
      page.waitForFunction(`(${fits})(window.page, ${JSON.stringify(wanted)})`, null, { timeout: 60_000 }),
    read: () => page.evaluate(() => ({ ...window.page, philote: undefined })),
    end: async () => {},
  };
}

/** The same application in Python. */
async function startProgram(t, backend, address) {
  const program = new URL("client_conversation.py", import.meta.url).pathname;
  const options = ["-B", "-X", "dev", "-W", "error", program, backend, address];
  const child = spawn(PYTHON, options, { env: { PATH: process.env.PATH, PYTHONUTF8: "1" }, stdio: ["pipe", "pipe", "pipe"] });
  t.after(() => child.kill());
  const record = { told: [], quiet: [], kept: [], answers: [], states: [], said: [], tasks: [] };
  const waiting = new Set();
  createInterface({ input: child.stdout }).on("line", (line) => {
    const [name, value] = JSON.parse(line);
    // The page notes an answer when it is said.
    if (name === "said") record.answers.push({ number: value });
    else if (name === "answers") Object.assign(record.answers.find(({ number }) => number === value.number), value);
    else record[name].push(value);
    for (const check of waiting) check();
  });
  const failures = [];
  child.stderr.on("data", (text) => failures.push(String(text)));
  const exited = once(child, "exit");
  exited.then(() => waiting.forEach((check) => check(new Error(`the program ended:\n${failures.join("")}`))));
  return {
    failures,
    reaches: (fits, wanted) =>
      new Promise((resolve, reject) => {
        const end = (error) => {
          clearTimeout(timer);
          waiting.delete(check);
          error ? reject(error) : resolve();
        };
        const check = (error) => (error || fits(record, wanted)) && end(error);
        const timer = setTimeout(() => end(new Error(`not reached within 60 s: ${fits}`)), 60_000);
        waiting.add(check);
        check();
      }),
    read: async () => record,
    end: async () => {
      child.stdin.end();
      assert.deepEqual(await exited, [0, null], failures.join(""));
      assert.deepEqual(record.tasks, [1], "only the main task is left");
    },
  };
}

// Both mostly wait.
test("10,000 messages through restarts, cuts and expiry", { timeout: 300_000, concurrency: 2 }, (t) =>
  Promise.all([
    t.test("in Chromium", (t) => converse(t, startPage)),
    t.test("in Python", (t) => converse(t, startProgram)),
  ]),
);

async function converse(t, start) {
  let philote = await startPhilote(t, SETTINGS);
  const proxy = await startProxy(t, philote.address);
  const backend = { published: 0, tokens: 0, refuses: false };

  /** Publishes the next numbers; the backend is never disconnected, and knows that each was accepted. */
  const publishNext = async (count) => {
    const messages = Array.from({ length: count }, (_, n) => ({
      channel: "numbers",
      data: String(backend.published + n + 1),
    }));
    const answer = await fetch(`http://${philote.address}/api/publish`, {
      method: "POST",
      headers: { Authorization: `Bearer ${sign({ api: true })}` },
      body: JSON.stringify(messages),
    });
    assert.equal(answer.status, 200, await answer.text());
    backend.published += count;
  };
  /** Publishes at this rate until `until()`. */
  const publishWhile = async (until) => {
    while (!until()) {
      await publishNext(BATCH);
      await pause(PAUSE);
    }
  };
  const publishFor = async (milliseconds) => {
    let over = false;
    const enough = backend.published + ENOUGH;
    pause(milliseconds).then(() => (over = true));
    await publishWhile(() => over && backend.published >= enough);
  };
  const publishUntil = (waited) => {
    let done = false;
    waited = waited.finally(() => (done = true));
    return Promise.all([waited, publishWhile(() => done)]);
  };
  /** Waits until the page has received everything published, the last of it on its connection. */
  const caughtUp = async () => {
    await publishNext(1);
    const has = ({ kept, told }, number) => kept.at(-1) === number && told.at(-1).number === number;
    await application.reaches(has, backend.published);
  };
  const recoveries = (count) =>
    application.reaches(({ told }, n) => told.filter((one) => "recovered" in one).length >= n, count);
  const isOpen = ({ states }) => states.at(-1)?.state === "open";

  /** Receives the page's answers directly from the daemon. */
  const heard = [];
  let socket;
  const hearAnswers = async () => {
    socket = new WebSocket(`ws://${philote.address}/`, {
      headers: { Authorization: `Bearer ${sign({ read: ["answers"] })}` },
    });
    socket.on("message", (text) => heard.push(Number(JSON.parse(text).data)));
    await once(socket, "open");
  };
  await hearAnswers();

  const application = await start(t, await startBackend(t, backend), `ws://${proxy.address}/`);
  await application.reaches(isOpen);

  /** For each reconnect, whether everything must be recovered: of the numbers, and of the quiet channel. */
  const expected = { numbers: [], quiet: [] };
  const expect = async (numbers, quiet, publishing = true) => {
    expected.numbers.push(numbers);
    expected.quiet.push(quiet);
    const told = recoveries(expected.numbers.length);
    await (publishing ? publishUntil(told) : told);
  };
  const cut = async () => {
    proxy.cut();
    await publishFor(CUT);
    proxy.open();
    await expect(true, true);
    await caughtUp();
  };
  /** A cut during which nothing is published, after a connection without messages, too. */
  const blink = async () => {
    proxy.cut();
    await application.reaches(({ states }) => states.at(-1).state === "waiting");
    proxy.open();
    await expect(true, true, false);
  };
  const stall = async () => {
    proxy.stall();
    await publishUntil(application.reaches(({ states }) => states.at(-1).state !== "open"));
    proxy.open();
    await expect(true, true);
    await caughtUp();
  };
  const restart = async () => {
    proxy.cut();
    await publishNext(BATCH); // which the old daemon's history loses
    await philote.stop();
    philote = await startPhilote(t, SETTINGS);
    await hearAnswers();
    await publishNext(50);
    proxy.target = philote.address;
    proxy.open();
    await expect(false, false, false);
    await blink();
    await caughtUp();
  };
  const expiry = async () => {
    backend.refuses = true;
    await publishUntil(application.reaches(({ states }) => states.some(({ code }) => code === 4401)));
    await publishFor(1_000);
    backend.refuses = false;
    await expect(true, true);
    await caughtUp();
  };
  const overflow = async () => {
    proxy.cut();
    for (let n = 0; n <= KEPT; n += 500) await publishNext(500);
    proxy.open();
    await expect(false, true);
    await caughtUp();
  };

  await blink();
  await cut();
  await publishFor(2_000);
  await caughtUp();
  await restart();
  await stall();
  await restart();
  await expiry();
  await restart();
  await overflow();
  assert(backend.published < MESSAGES, `${backend.published} before the last stretch`);
  // The last phase is longer than a token's life, so that one is replaced on the connection.
  const before = backend.tokens;
  await publishFor(TOKEN_LASTS * 1000);
  while (backend.published < MESSAGES - 1) await publishNext(Math.min(50, MESSAGES - 1 - backend.published));
  await caughtUp(); // with the last one
  assert(backend.tokens > before, "no token was replaced");

  await application.reaches(({ answers }) => answers.every((one) => "readers" in one || "error" in one));
  const { told, quiet, kept, answers, states } = await application.read();
  await application.end();
  assert.deepEqual(kept, Array.from({ length: MESSAGES }, (_, n) => n + 1), "complete and in order");
  assert.deepEqual(application.failures, []);

  // The client's reports, against the model: numbers are consecutive unless `recovered: false` came in between.
  let last = 0;
  let mayMiss = false;
  let missed = 0;
  for (const { number, recovered } of told) {
    if (recovered === false) mayMiss = true;
    if (number === undefined) continue;
    assert(number === last + 1 || (mayMiss && number > last), `${number} came after ${last}`);
    missed += number - last - 1;
    [last, mayMiss] = [number, false];
  }
  const recovered = told.filter((one) => "recovered" in one).map((one) => one.recovered);
  const reasons = states.map(({ state, code, reason }) => (code ? `${state} ${code} ${reason}` : state)).join(", ");
  assert.equal(`${recovered}`, `${expected.numbers}`, reasons);
  assert.equal(`${quiet}`, `${expected.quiet}`, reasons);
  assert.equal(states.filter(({ state }) => state === "open").length, quiet.length + 1);
  assert(missed > 0, "messages that were no longer in the history were missed");
  const closes = states.filter(({ code }) => code === 4401);
  assert.deepEqual(new Set(closes.map(({ reason }) => reason)), new Set(["the token has expired; get a new one"]));
  assert.equal(closes.length, 1, "every other token was replaced in time");

  // The page's answers: each accepted one arrived once and in order, and no other arrived.
  const said = answers.filter(({ error }) => error === undefined);
  while (!heard.includes(said.at(-1).number)) await once(socket, "message");
  assert.deepEqual(heard, [...new Set(heard)].sort((a, b) => a - b));
  for (const { number, readers } of said) assert(readers === 1 && heard.includes(number), `answer ${number}`);
  for (const number of heard) assert(answers.some((one) => one.number === number), `answer ${number} was never said`);
  assert(answers.every(({ error }) => error === undefined || error === "unanswered"));
  assert(said.length > 50, `${said.length} answers`);
  t.diagnostic(
    `${told.length - quiet.length} messages told, ${missed} fetched elsewhere; recovered: ${expected.numbers.join(", ")}; ` +
      `${backend.tokens} tokens; ${said.length} of ${answers.length} answers taken`,
  );
}
