// The programs of the README and of the manual, which are named by their first lines.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

/** Reads a file of the repository. */
export const read = (path) => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");

/** The blocks of code of a Markdown file, each as a list of lines. */
const markdownBlocks = (text) =>
  text.match(/^```.*\n[^`][^]*?^```$/gm).map((block) => block.split("\n").slice(1, -1));

/** The literal blocks of a manual page, each as a list of lines without mdoc's escapes. */
const mdocBlocks = (text) =>
  text.match(/^\.Bd -literal.*\n[^]*?^\.Ed$/gm).map((block) =>
    block.split("\n").slice(1, -1).map((line) => line.replace(/^\\&/, "").replaceAll("\\e", "\\")),
  );

const BLOCKS = [
  ...markdownBlocks(read("README.md")),
  ...mdocBlocks(read("man/philote-protocol.7")),
  ...mdocBlocks(read("man/philote-recipes.7")),
];

/** The block of code whose first line names it, such as `# sign_token.py`, for a server at `philote.address`. */
export function program(name, philote) {
  const found = BLOCKS.filter(([first]) => first.endsWith(` ${name}`));
  assert.equal(found.length, 1, `one block of code of the README or the manual begins with the name ${name}`);
  return found[0].join("\n").replaceAll("localhost:6380", philote.address);
}
