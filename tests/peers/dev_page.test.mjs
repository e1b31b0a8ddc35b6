// The page of `philote --dev` in Chromium: channels by hand, and the sentence of every rejection.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import test from "node:test";
import { promisify } from "node:util";
import jwt from "jsonwebtoken";
import { BINARIES, DEADLINE, openBrowser, startPhilote } from "./philote.mjs";

const SECRET = "everybody-knows-this-secret-of-philote-dev";
const DEV = { SECRET: undefined };

const start = (t, settings = {}) => startPhilote(t, { ...DEV, ...settings }, ["--dev"]);

async function openPage(browserPage, philote) {
  await browserPage.goto(`http://${philote.address}/`);
  return browserPage;
}

const state = (page, wanted) =>
  page.waitForFunction((one) => document.querySelector("#state").textContent === one, wanted);
const reason = async (page, words) => {
  // Read at once, because the next try clears it.
  const found = await page.waitForFunction((text) => {
    const said = document.querySelector("#reason").textContent;
    return said.includes(text) && said;
  }, words);
  return found.jsonValue();
};
const logged = (page, words) =>
  page.waitForFunction((text) => document.querySelector("#log").innerText.includes(text), words);

test("--dev: two pages talk, and a second channel is joined and left on the same connection", DEADLINE, async (t) => {
  const philote = await start(t);
  const page = await openPage(await openBrowser(t), philote);
  const other = await openPage(await page.context().browser().newPage(), philote);
  await other.fill("[name=subject]", "bob");
  for (const one of [page, other]) {
    await one.click("#connect");
    await state(one, "open");
  }
  await page.fill("#publish [name=data]", "<b>shalom</b>");
  await page.click("#publish button");
  await logged(page, "to 1 reader");
  await logged(other, "<b>shalom</b>");
  assert.equal(await other.locator("#log b").count(), 0, "markup in a message is shown as text");

  for (const one of [page, other]) {
    await one.fill("#join [name=channel]", "second");
    await one.click("#join button");
    await one.locator("#log li", { hasText: /second.*joined/ }).waitFor();
  }
  await other.fill("#publish [name=channel]", "second");
  await other.fill("#publish [name=data]", "from the second room");
  await other.click("#publish button");
  await logged(page, "from the second room");
  await page.click("[title='leave chat']");
  await page.locator("#log li", { hasText: /chat.*left/ }).waitFor();
  const chip = (words) =>
    other.waitForFunction((text) => document.querySelector("#channels").innerText.includes(text), words);
  await chip("second bob, dev");
  const opened = await page.locator("#log li:has-text('open')").count();
  assert.equal(opened, 1, "everything uses one connection");

  await page.click("#disconnect");
  await state(page, "closed");
});

test("--dev: the printed token connects, and a message to another channel is refused with a sentence", DEADLINE, async (t) => {
  const philote = await start(t);
  const page = await openPage(await openBrowser(t), philote);
  const token = (await philote.says(/^token +(\S+)$/m))[1];
  await page.click("summary");
  await page.fill("#own", token);
  await page.click("#connect");
  await state(page, "open");
  await page.fill("#publish [name=channel]", "foreign");
  await page.fill("#publish [name=data]", "x");
  await page.click("#publish button");
  await logged(page, 'this token may not write to channel "foreign"');
});

const sign = (claims, secret = SECRET) => jwt.sign({ read: ["chat"], ...claims }, secret);

for (const [name, token, code, sentence] of [
  ["wrong", sign({}, "another secret that is long enough"), 4401, "the token has a bad signature"],
  ["expired", sign({ exp: 1_700_000_000 }), 4401, "the token has expired"],
  ["malformed", "no token at all", 4401, "the token is malformed"],
]) {
  test(`--dev: the page shows why a token that is ${name} is refused`, DEADLINE, async (t) => {
    const philote = await start(t);
    const page = await openPage(await openBrowser(t), philote);
    await page.click("summary");
    await page.fill("#own", token);
    await page.click("#connect");
    const said = await reason(page, sentence);
    assert(said.startsWith(`${code}: `) && said.includes("next try"), said);
  });
}

test("--dev: the page reports that its application has no token", DEADLINE, async (t) => {
  const philote = await start(t);
  const page = await openPage(await openBrowser(t), philote);
  await page.evaluate(async () => {
    const { Philote } = await import("/philote.js");
    new Philote("/", { token: () => "" }).when("state", ({ code, reason }) => {
      if (reason) document.querySelector("#reason").textContent = `${code}: ${reason}`;
    });
  });
  assert.equal(await reason(page, "no token"), "0: no token: token() returned an empty string");
});

test("--dev: the page reports a full server, and connects once a connection is free", DEADLINE, async (t) => {
  const philote = await start(t, { MAX_CONNECTIONS: "1" });
  const first = await openPage(await openBrowser(t), philote);
  await first.click("#connect");
  await state(first, "open");
  const second = await openPage(await first.context().browser().newPage(), philote);
  await second.click("#connect");
  assert.match(await reason(second, "full"), /^1013: the server is full: max_connections is 1; next try in/);
  await first.click("#disconnect");
  await state(second, "open");
});

test("--dev: the page reports a banned subject, and does not reconnect", DEADLINE, async (t) => {
  const philote = await start(t);
  const page = await openPage(await openBrowser(t), philote);
  await page.fill("[name=subject]", "mallory");
  await page.click("#connect");
  await state(page, "open");
  await promisify(execFile)(join(BINARIES, "philotectl"), ["disconnect", "--subject", "mallory", "--refuse-for", "1h"], {
    env: { PHILOTE_ADMIN_SOCKET: philote.settings.PHILOTE_ADMIN_SOCKET },
  });
  await state(page, "closed");
  assert.match(await page.textContent("#reason"), /^4403: an administrator refuses this token's subject/);
  await page.click("#connect");
  await reason(page, "an administrator refuses this token's subject until 2");
  await state(page, "closed");
});

test("in the browser: tabs of one person are one subject, and a reload is no event", DEADLINE, async (t) => {
  const philote = await start(t, { PHILOTE_PRESENCE_GRACE: "3s" });
  const page = await openPage(await openBrowser(t), philote);
  const read = (subject) => sign({ sub: subject, presence: true, exp: Math.floor(Date.now() / 1000) + 600 });
  /** Opens a tab that reads the channel; resolves when it is connected. */
  const tab = async (subject) => {
    const tab = await page.context().browser().newPage();
    const open = async () => {
      await openPage(tab, philote);
      await tab.evaluate(async (token) => {
        const { Philote } = await import("/philote.js");
        const client = new Philote("/", { token: () => token });
        await new Promise((resolve) => client.when("access", resolve));
      }, read(subject));
    };
    await open();
    return { open, close: () => tab.close() };
  };
  await page.evaluate(async (token) => {
    const { Philote } = await import("/philote.js");
    window.told = [];
    new Philote("/", { token: () => token }).presence("chat", ({ joined, left, count }) => told.push([...joined, ...left.map((one) => `-${one}`), count]));
    while (!told.length) await new Promise((resolve) => setTimeout(resolve, 10));
  }, read("ann"));
  const told = async (count) => {
    await page.waitForFunction((count) => window.told.length >= count, count);
    return page.evaluate(() => window.told);
  };
  const first = await tab("bob");
  assert.deepEqual((await told(2)).at(-1), ["bob", 2]);
  const second = await tab("bob");
  await first.close();
  // A reload of the page is a reconnection within the grace.
  await second.open();
  const carol = await tab("carol");
  assert.deepEqual((await told(3)).at(-1), ["carol", 3], "nothing was told of bob");
  const closed = Date.now();
  await second.close();
  assert.deepEqual((await told(4)).at(-1), ["-bob", 2]);
  assert(Date.now() - closed >= 3000, "not before the grace is over");
  await carol.close();
  assert.deepEqual((await told(5)).at(-1), ["-carol", 1]);
});
