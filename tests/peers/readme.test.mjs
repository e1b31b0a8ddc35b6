// The programs of the README and of the EXAMPLES of philote-protocol(7) run unchanged, except for the server's address.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { delimiter } from "node:path";
import { createInterface } from "node:readline";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import WebSocket from "ws";
import { BINARIES, DEADLINE, openBrowser, PYTHON, sign, startPhilote } from "./philote.mjs";
import { program, read } from "./programs.mjs";
import { startProxy } from "./proxy.mjs";

const HERE = fileURLToPath(new URL(".", import.meta.url));

/** Runs a program followed by `after`, and returns what they printed. */
async function run(philote, name, environment = {}, after = "") {
  const code = program(name, philote) + after;
  const [command, ...options] = {
    py: [PYTHON, "-c", code],
    mjs: [process.execPath, "--input-type=module", "--eval", code],
    sh: ["bash", "-euc", code],
  }[name.split(".")[1]];
  const env = { PATH: `${BINARIES}${delimiter}${process.env.PATH}`, SECRET: philote.secret, ...environment };
  const { stdout } = await promisify(execFile)(command, options, { cwd: HERE, env, ...DEADLINE });
  return stdout.trim();
}

/** Connects with a token; `next` waits for a message and gives it. */
async function join(t, philote, token) {
  const socket = new WebSocket(`ws://${philote.address}/?auth=${token}`);
  t.after(() => socket.terminate());
  const messages = [];
  const waiting = [];
  socket.on("message", (frame) => {
    const message = JSON.parse(frame);
    const resolve = waiting.shift();
    if (resolve) resolve(message);
    else messages.push(message);
  });
  await once(socket, "open");
  return {
    close: () => socket.close(),
    send: (data) => socket.send(JSON.stringify({ channel: "chat", data })),
    next: () => messages.shift() ?? new Promise((resolve) => waiting.push(resolve)),
  };
}

const chat = (philote) => sign(philote, { read: ["chat"], write: ["chat"] });

test("documentation: token.sh and secret.sh print a token and the secret of a server that created its secret", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { SECRET: undefined });
  const socket = { PHILOTE_ADMIN_SOCKET: philote.settings.PHILOTE_ADMIN_SOCKET };
  const first = await join(t, philote, await run(philote, "token.sh", socket));
  const secret = await run(philote, "secret.sh", socket, '\nprintf %s "$SECRET"');
  const second = await join(t, philote, await run(philote, "sign_token.py", { SECRET: secret }));
  first.send("shalom");
  assert.equal((await second.next()).data, "shalom");
});

for (const name of ["sign_token.py", "sign_token.mjs"]) {
  test(`documentation: a token of ${name} reads and writes`, DEADLINE, async (t) => {
    const philote = await startPhilote(t);
    const alice = await join(t, philote, await run(philote, name));
    const other = await join(t, philote, chat(philote));
    alice.send("shalom");
    const { channel, data, subject } = await other.next();
    assert.deepEqual({ channel, data, subject }, { channel: "chat", data: "shalom", subject: "alice" });
    other.send("hello, alice");
    assert.equal((await alice.next()).data, "hello, alice");
  });
}

for (const [name, expected] of [
  ["publish.sh", ["hello from curl"]],
  ["publish.py", ["hello from Python"]],
  ["publish.mjs", ["hello", "again"]],
]) {
  test(`documentation: ${name} publishes`, DEADLINE, async (t) => {
    const philote = await startPhilote(t);
    const reader = await join(t, philote, chat(philote));
    const printed = await run(philote, name, { TOKEN: sign(philote, { api: true }) });
    for (const data of expected) assert.equal((await reader.next()).data, data);
    const answer = JSON.parse(printed.slice(printed.indexOf("{")));
    assert.deepEqual(answer, { published: expected.map(() => ({ channel: "chat", readers: 1 })) });
  });
}

for (const name of ["follow.py", "follow.mjs"]) {
  test(`documentation: ${name} tells who is in the rooms, and continues after a fault`, DEADLINE, async (t) => {
    const philote = await startPhilote(t, { PHILOTE_PRESENCE_GRACE: "0s" });
    const proxy = await startProxy(t, philote.address);
    const code = program(name, { address: proxy.address });
    const [command, option] = name.endsWith("py") ? [PYTHON, "-uc"] : [process.execPath, "--input-type=module"];
    const options = name.endsWith("py") ? [option, code] : [option, "--eval", code];
    const enter = (sub) => join(t, philote, sign(philote, { sub, read: ["room:1"], write: ["room:1"] }));
    await enter("ann");
    const child = execFile(command, options, { env: { TOKEN: sign(philote, { api: true }), PYTHONUTF8: "1" } });
    t.after(() => child.kill());
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const next = async () => (await lines.next()).value;
    const first = await next();
    assert.deepEqual(JSON.parse(first.slice(first.indexOf("{"))).channels, [{ channel: "room:1", readers: 1, writers: 1 }]);
    await enter("bob");
    assert.equal(await next(), "bob joined room:1");
    proxy.cut();
    const cy = await enter("cy");
    cy.close();
    proxy.open();
    // Nothing is loaded again, and nothing is missing.
    const told = [];
    while (told.length < 2) {
      const line = await next();
      if (/ room:1$/.test(line)) told.push(line);
      else assert(!line.startsWith("rooms"), line);
    }
    assert.deepEqual(told, ["cy joined room:1", "cy left room:1"]);
  });
}

test("documentation: disconnect.sh closes the connections of a subject and refuses it", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const token = sign(philote, { sub: "mallory" });
  const mallory = new WebSocket(`ws://${philote.address}/?auth=${token}`);
  await once(mallory, "open");
  const [printed, [code]] = await Promise.all([
    run(philote, "disconnect.sh", { TOKEN: sign(philote, { api: true }) }),
    once(mallory, "close"),
  ]);
  assert.equal(code, 4403);
  assert.equal(JSON.parse(printed).disconnected, 1);
  await assert.rejects(once(new WebSocket(`ws://${philote.address}/?auth=${token}`), "open"), /403/);
});

test("documentation: reader.py publishes, and prints what it receives", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const other = await join(t, philote, chat(philote));
  const child = execFile(PYTHON, ["-c", program("reader.py", philote)], {
    env: { TOKEN: chat(philote), PYTHONUTF8: "1" },
  });
  t.after(() => child.kill());
  assert.equal((await other.next()).data, "hello from Python");
  other.send("shalom");
  assert.deepEqual(await once(child.stdout, "data"), ["chat shalom\n"]);
});

test("documentation: browser.js publishes, and prints what it receives", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const other = await join(t, philote, chat(philote));
  const page = await openBrowser(t);
  // A browser may keep a page that no server on this machine has sent from connecting to it.
  await page.goto(/<(http:\S+)>, paste this program/.exec(read("README.md"))[1].replace("localhost:6380", philote.address));
  page.on("dialog", (dialog) => dialog.accept(chat(philote)));
  await page.addScriptTag({ content: program("browser.js", philote) });
  assert.equal((await other.next()).data, "hello from the browser");
  // The browser also complains there that the server has no icon.
  const printed = page.waitForEvent("console", (message) => message.type() === "log");
  other.send("shalom");
  assert.equal((await printed).text(), "chat: shalom");
});
