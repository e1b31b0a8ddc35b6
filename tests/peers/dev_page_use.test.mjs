// The page of `philote --dev` for a person: what it shows of messages, on a narrow screen, with the keyboard, and as programs.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import test from "node:test";
import { promisify } from "node:util";
import { DEADLINE, PYTHON, openBrowser, startPhilote } from "./philote.mjs";

const run = promisify(execFile);
/** A directory for screenshots, to be looked at. */
const { PHILOTE_SCREENSHOTS: SCREENSHOTS } = process.env;

const start = (t) => startPhilote(t, { SECRET: undefined }, ["--dev"]);

async function openPage(page, philote) {
  await page.goto(`http://${philote.address}/`);
  return page;
}

const state = (page, wanted) =>
  page.waitForFunction((one) => document.querySelector("#state").textContent === one, wanted);

async function connect(page, subject) {
  await page.fill("[name=subject]", subject);
  await page.click("#connect");
  await state(page, "open");
  await page.locator("#log li", { hasText: /chat.*joined/ }).waitFor();
}

async function publish(page, channel, data) {
  await page.fill("#publish [name=channel]", channel);
  await page.fill("#publish [name=data]", data);
  await page.click("#publish button");
  await page.locator("#log li.own", { hasText: data }).waitFor();
}

async function picture(page, name) {
  if (!SCREENSHOTS) return;
  await mkdir(SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), fullPage: true });
}

test("--dev: names have colours of their own, and who comes later gets the history", DEADLINE, async (t) => {
  const philote = await start(t);
  const ann = await openPage(await openBrowser(t), philote);
  await connect(ann, "ann");
  assert.match(await ann.textContent("#rtt"), /^\d+\.\d ms$/, "the round-trip time");
  await publish(ann, "chat", "before bob");
  const bob = await openPage(await ann.context().browser().newPage(), philote);
  await connect(bob, "bob");
  const past = bob.locator("#log li.past", { hasText: "before bob" });
  await past.waitFor();
  await publish(ann, "chat", "for bob");
  const row = bob.locator("#log li", { hasText: "for bob" });
  await row.waitFor();
  assert.equal(await row.getAttribute("class"), "", "no history");
  const cells = await row.locator("span").allTextContents();
  assert.match(cells[0], /^\d\d:\d\d:\d\d$/);
  assert.deepEqual(cells.slice(1), ["chat", "ann", "for bob"]);
  const colour = (row, place) => row.locator("span").nth(place).evaluate((one) => getComputedStyle(one).color);
  assert.notEqual(await colour(row, 1), await colour(row, 2), "the channel and the sender differ");
  assert.notEqual(await colour(row, 2), await colour(row, 3), "the text has no colour");
  assert.equal(await colour(row, 2), await colour(past, 2), "the same name has the same colour");

  // A reconnection is counted, and resumes without the messages that are shown already.
  const { stdout } = await run(join(process.env.PHILOTE_BINARIES, "philotectl"), ["disconnect", "--subject", "bob", "--reconnect"], {
    env: { PHILOTE_ADMIN_SOCKET: philote.settings.PHILOTE_ADMIN_SOCKET },
  });
  assert.match(stdout, /1/);
  await bob.waitForFunction(() => document.querySelector("#reconnects").textContent === "1 reconnect");
  await bob.locator("#log li", { hasText: "nothing was missed" }).waitFor();
  assert.equal(await bob.locator("#log li", { hasText: "for bob" }).count(), 1);
  await picture(bob, "wide-light");
  await bob.emulateMedia({ colorScheme: "dark" });
  await picture(bob, "wide-dark");
});

test("--dev: what was done last works as a program for curl, JavaScript and Python", DEADLINE, async (t) => {
  const philote = await start(t);
  const page = await openPage(await openBrowser(t), philote);
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await connect(page, "dev");
  const program = async (language) => {
    await page.click(`[name=language][value=${language}]`);
    await page.click("#copy");
    await page.waitForFunction(() => document.querySelector("#copy").textContent === "Copied");
    const text = await page.evaluate(() => navigator.clipboard.readText());
    assert.equal(text.trim(), (await page.textContent("#program")).trim());
    return text;
  };
  // The page itself runs no text as a program.
  const other = await openPage(await (await page.context().browser().newContext({ bypassCSP: true })).newPage(), philote);
  /** Runs JavaScript in another page, and returns what it printed until it closed. */
  const inBrowser = (code) =>
    other.evaluate(
      (code) =>
        new Promise((resolve) => {
          const printed = [];
          const console = { log: (...words) => printed.push(words.join(" ")) };
          const socket = new Function("console", `${code}\nreturn socket;`)(console);
          socket.addEventListener("close", () => setTimeout(() => resolve(printed), 0));
          // A reader goes on.
          if (code.includes('"join"')) setTimeout(() => socket.close(), 1000);
        }),
      code,
    );

  assert.equal(await page.textContent("#done"), "join chat");
  const curl = await run("bash", ["-euc", await program("curl")]);
  assert.equal(JSON.parse(curl.stdout).readers, 1, curl.stdout);
  assert((await inBrowser(await program("javascript"))).some((line) => line.startsWith('{"joined":{"chat"')));

  // A text with everything that quotes differ in, and with a character that cannot be seen.
  const text = `it's "quoted" \\ $HOME \`id\` é\u202e😀`;
  await page.fill("#publish [name=data]", text);
  await page.click("#publish button");
  await page.waitForFunction(() => document.querySelector("#done").textContent === "publish to chat");
  const received = async (times) => {
    await page.waitForFunction(
      (times) => [...document.querySelectorAll("#log li.own, #log li[class='']")].filter((row) => row.innerText.includes("it's")).length === times,
      times,
    );
    const rows = await page.locator("#log li", { hasText: "it's" }).locator("span:last-child").allTextContents();
    assert.equal(new Set(rows).size, 1, `the same text each time: ${rows}`);
  };
  await received(1);
  const shown = await page.textContent("#program");
  assert(!shown.includes("\u202e"), "invisible characters are escaped");
  const answer = await run("bash", ["-euc", await program("curl")]);
  assert.equal(JSON.parse(answer.stdout).published[0].channel, "chat");
  await received(2);
  assert((await inBrowser(await program("javascript"))).some((line) => line.includes('"readers":1')));
  await received(3);
  const { stdout } = await run(PYTHON, ["-c", await program("python")]);
  assert.match(stdout, /"ack":/);
  await received(4);

  await page.click("[title='leave chat']");
  await page.waitForFunction(() => document.querySelector("#done").textContent === "leave chat");
  assert((await inBrowser(await program("javascript"))).length > 0);
});

test("--dev: the page fits a screen of 375 px, and works with the keyboard alone", DEADLINE, async (t) => {
  const philote = await start(t);
  const page = await openPage(await openBrowser(t), philote);
  const tops = await page.$$eval("#connection label", (labels) => labels.map((one) => one.getBoundingClientRect().top));
  assert.equal(new Set(tops).size, 1, `the labels are on one line: ${tops}`);
  await page.setViewportSize({ width: 375, height: 800 });
  const fits = async () => {
    const { scrollWidth, clientWidth } = await page.evaluate(() => ({
      scrollWidth: document.documentElement.scrollWidth,
      clientWidth: document.documentElement.clientWidth,
    }));
    assert(scrollWidth <= clientWidth, `${scrollWidth} of ${clientWidth}`);
  };
  await fits();
  const focused = () => page.evaluate(() => document.activeElement.name || document.activeElement.id || document.activeElement.title);
  /** Presses Tab until this has the focus. */
  const tabTo = async (name) => {
    for (let presses = 0; presses < 40; presses++) {
      if ((await focused()) === name) return;
      await page.keyboard.press("Tab");
    }
    assert.fail(`Tab does not reach ${name}`);
  };
  await tabTo("subject");
  await page.keyboard.press("Enter");
  await state(page, "open");
  await tabTo("leave chat");
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, "solid", "what has the focus is visible");
  await tabTo("data");
  await page.keyboard.type(`${"long".repeat(60)} text`);
  await page.keyboard.press("Enter");
  await page.locator("#log li.own").waitFor();
  await tabTo("log");
  await tabTo("language");
  await page.keyboard.press("ArrowRight");
  assert.match(await page.textContent("#program"), /new WebSocket/);
  await fits();
  await picture(page, "narrow-light");
  await page.emulateMedia({ colorScheme: "dark" });
  await picture(page, "narrow-dark");
  await page.keyboard.press("Shift+Tab");
  await tabTo("copy");
});

test("--dev: each button causes its fault, and the client of the page gets over it", DEADLINE, async (t) => {
  const philote = await start(t);
  const page = await openPage(await openBrowser(t), philote);
  const press = (fault) => page.click(`[data-fault=${fault}]`);
  const row = (text) => page.locator("#log li", { hasText: text }).last();
  const again = async () => {
    await page.waitForFunction(() => document.querySelector("#reconnects").textContent === "1 reconnect");
    // Another client, which does not wait longer because of the faults before.
    await page.click("#connect");
    await page.waitForFunction(() => document.querySelector("#reconnects").textContent === "");
    await state(page, "open");
  };
  await press("cut");
  await row("connect first").waitFor();
  await connect(page, "ann");
  for (const [fault, code] of [["cut", "1006"], ["expire", "4401"], ["slow", "4413"], ["restart", "1012"]]) {
    await press(fault);
    await row("ended 1 connection").waitFor();
    await row(new RegExp(`waiting.*${code}`)).waitFor();
    await again();
  }
  await press("forget");
  await row(/fault.*forget/).waitFor();
  await press("cut");
  await row("something may have been missed").waitFor();
  await again();
  await press("refuse");
  await row(/fault.*refuse/).waitFor();
  await press("cut");
  await row(/waiting.*1013/).waitFor();
  await picture(page, "faults");
});
