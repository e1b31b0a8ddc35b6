// The files of packaging/npm: the committed build is that of the source, small, and installable.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const DEADLINE = { timeout: 120_000 };
const PACKAGE = fileURLToPath(new URL("../../packaging/npm/", import.meta.url));
const TSC = join(PACKAGE, "node_modules/typescript/bin/tsc");

async function scratch(t) {
  const directory = await mkdtemp(join(tmpdir(), "philote-client-"));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

test("the committed module and its types are the build of the source", DEADLINE, async (t) => {
  const directory = await scratch(t);
  await run(process.execPath, [TSC, "--project", PACKAGE, "--outDir", directory]);
  for (const name of ["philote.js", "philote.d.ts"]) {
    const [fresh, committed] = await Promise.all([directory, PACKAGE].map((place) => readFile(join(place, name), "utf8")));
    assert.equal(committed, fresh, `packaging/npm/${name} is old: npm run build`);
  }
});

test("minified it stays under 25 KiB", DEADLINE, async (t) => {
  const { transform } = createRequire(PACKAGE)("esbuild");
  const source = await readFile(join(PACKAGE, "philote.js"), "utf8");
  const { code } = await transform(source, { minify: true, format: "esm", target: "es2022" });
  assert(code.length < 25 * 1024, `${code.length} bytes`);
  t.diagnostic(`${code.length} bytes`);
});

test("npm packs and installs it from the folder, for JavaScript and for TypeScript", DEADLINE, async (t) => {
  const directory = await scratch(t);
  const npm = (...words) => run("npm", [...words, "--offline", "--no-audit", "--no-fund"], { cwd: directory });
  const [{ filename, files }] = JSON.parse((await npm("pack", "--json", PACKAGE)).stdout);
  assert.deepEqual(
    files.map(({ path }) => path).sort(),
    ["README.md", "package.json", "philote.d.ts", "philote.js", "philote.ts"],
  );
  await writeFile(join(directory, "package.json"), '{"private": true, "type": "module"}');
  await npm("install", `./${filename}`);
  const { stdout } = await run(
    process.execPath,
    ["--input-type=module", "--eval", 'import * as client from "philote-client"; console.log(Object.keys(client).join())'],
    { cwd: directory },
  );
  assert.equal(stdout.trim(), "Philote,PhiloteError");

  const example = /```ts\n([^]*?)```/.exec(await readFile(join(PACKAGE, "README.md"), "utf8"))[1];
  await writeFile(join(directory, "example.ts"), example);
  const options = ["--strict", "--noEmit", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom", "example.ts"];
  await run(process.execPath, [TSC, ...options], { cwd: directory });
});
