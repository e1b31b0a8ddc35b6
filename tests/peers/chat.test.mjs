// The chat of the README, tests/chat, with two users in Chromium.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { openBrowser, PYTHON, startPhilote } from "./philote.mjs";
import { startProxy } from "./proxy.mjs";

const DEADLINE = { timeout: 120_000 };
const SERVER = fileURLToPath(new URL("../chat/server.py", import.meta.url));

/** Starts the example's backend as the README does; returns its address. */
async function startChat(t, environment) {
  const child = spawn(PYTHON, [SERVER], { env: { PORT: "0", PYTHONUTF8: "1", ...environment }, stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill());
  const [line] = await once(createInterface({ input: child.stdout }), "line");
  return /http:\S+/.exec(line)[0];
}

/** Opens a separate browser session for a user, and logs in. */
async function enter(context, address, name) {
  const page = await context.newPage();
  await page.goto(address);
  await page.fill("#login [name=name]", name);
  await page.click("#login button");
  await state(page, "open");
  return page;
}

const state = (page, wanted) => page.waitForFunction((one) => document.querySelector("#state").textContent === one, wanted);
const away = (page) => page.waitForFunction(() => document.querySelector("#state").textContent.startsWith("waiting: "));
const see = (page, text) =>
  page.waitForFunction((one) => [...document.querySelectorAll("#messages li")].some((item) => item.innerText === one), text);
const room = (page, name) => page.click(`nav button:has-text("${name}")`);
async function say(page, text) {
  await page.fill("[name=text]", text);
  await page.click("#say button");
}

test("the example chat: rooms, history, reconnection", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { SECRET: undefined }, ["--dev"]);
  const proxy = await startProxy(t, philote.address);
  const secret = (await philote.says(/^secret +(\S+)$/m))[1];
  // Tokens expire after three seconds, and are replaced without the user's notice.
  const address = await startChat(t, { SECRET: secret, PHILOTE: `ws://${proxy.address}/`, TOKEN_LASTS: "3" });
  const browser = (await openBrowser(t)).context().browser();
  const ada = await enter(await browser.newContext(), address, "ada");
  const bob = await enter(await browser.newContext(), address, "bob");

  const here = (page, names) => page.waitForFunction((one) => document.querySelector("#who").textContent === one, `here: ${names}`);
  for (const page of [ada, bob]) await here(page, "ada, bob");
  await say(ada, "shalom <i>bob</i>");
  await see(ada, "adashalom <i>bob</i>");
  await see(bob, "adashalom <i>bob</i>");
  await room(bob, "kitchen");
  await say(bob, "tea?");
  await see(bob, "bobtea?");

  // A user who enters a room sees its earlier messages.
  await room(ada, "kitchen");
  await see(ada, "bobtea?");
  await say(ada, "with milk");
  await see(bob, "adawith milk");

  for (const page of [ada, bob]) await here(page, "ada, bob");

  // Messages that were published while the user was away are there after the return, without a warning of a gap.
  proxy.cut();
  await away(ada);
  await away(bob);
  await say(bob, "written offline");
  proxy.open();
  await see(ada, "bobwritten offline");
  await see(bob, "bobwritten offline");
  for (const page of [ada, bob]) assert.equal(await page.locator(".gap").count(), 0);

  // The user's own messages appear once in the history, and a new page shows all of them in order.
  const texts = (page) => page.locator("#messages li").allInnerTexts();
  await bob.reload();
  await state(bob, "open");
  await room(bob, "kitchen");
  await see(bob, "bobwritten offline");
  assert.deepEqual(await texts(bob), ["bobtea?", "adawith milk", "bobwritten offline"]);
  assert.deepEqual(await texts(ada), ["bobtea?", "adawith milk", "bobwritten offline"]);

  // The backend assigns the names, so no user can take another's.
  const thief = await (await browser.newContext()).newPage();
  await thief.goto(address);
  await thief.fill("#login [name=name]", "ada");
  await thief.click("#login button");
  await thief.waitForFunction(() => document.querySelector("#refused").textContent === "choose another name");
});
