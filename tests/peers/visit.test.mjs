// A person opens the server's address in Chromium.

import assert from "node:assert/strict";
import { join } from "node:path";
import test from "node:test";
import { DEADLINE, openBrowser, startPhilote } from "./philote.mjs";

test("a plain visit shows a page that says what this is and what to type", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const page = await openBrowser(t);
  const faults = [];
  page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  for (const path of ["/", "/some/room?x=1"]) {
    const answer = await page.goto(`http://${philote.address}${path}`);
    assert.equal(answer.status(), 426);
    assert.equal(await page.textContent("h1"), "This is a Philote server");
    assert.match(await page.innerText("body"), /philotectl token --read chat --write chat\njane -c chat/);
    assert.equal(await page.evaluate(() => document.querySelectorAll("script").length), 0);
    // The style applies in spite of the policy.
    assert.match(await page.evaluate(() => getComputedStyle(document.body).maxWidth), /px$/);
  }
  if (process.env.PHILOTE_SCREENSHOT) await page.screenshot({ path: join(process.env.PHILOTE_SCREENSHOT, "visit.png") });
  // Chromium itself reports the status of the page.
  assert.deepEqual(faults.filter((text) => !text.includes("426")), []);
});
