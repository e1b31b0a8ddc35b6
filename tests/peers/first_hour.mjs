// The browser of tests/first-hour.
//
// node first_hour.mjs page TOKEN: opens the page that the README names, runs its program browser.js, and prints the first line in
// the browser's console. node first_hour.mjs dev: two pages of `philote --dev` talk; prints the row that the second one shows.

import { openBrowser } from "./philote.mjs";
import { program, read } from "./programs.mjs";

const [mode, token] = process.argv.slice(2);
const ends = [];
const page = await openBrowser({ after: (end) => ends.push(end) });

if (mode === "page") {
  await page.goto(/Open <(http:\S+)>, paste this program/.exec(read("README.md"))[1]);
  page.on("dialog", (dialog) => dialog.accept(token));
  // The browser also complains there that the server has no icon.
  const printed = page.waitForEvent("console", (message) => message.type() === "log");
  await page.addScriptTag({ content: program("browser.js", { address: "localhost:6380" }) });
  console.log((await printed).text());
} else {
  const address = /On its page at <(http:\S+)>/.exec(read("README.md"))[1];
  const open = async (one, subject) => {
    await one.goto(address);
    await one.fill("[name=subject]", subject);
    await one.click("#connect");
    await one.locator("#log li", { hasText: /chat.*joined/ }).waitFor();
    return one;
  };
  const ann = await open(page, "ann");
  const bob = await open(await page.context().browser().newPage(), "bob");
  await ann.fill("#publish [name=channel]", "chat");
  await ann.fill("#publish [name=data]", "hello from ann");
  await ann.click("#publish button");
  const row = bob.locator("#log li", { hasText: "hello from ann" });
  console.log((await row.locator("span").allTextContents()).join(" "));
}
for (const end of ends) await end();
