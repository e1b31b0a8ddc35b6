// The client of packaging/python: its own tests, and what is built from it.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdirSync } from "node:fs";
import { mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { DEADLINE, PYTHON, scratch, startPhilote } from "./philote.mjs";

const run = promisify(execFile);
const PACKAGE = fileURLToPath(new URL("../../packaging/python/", import.meta.url));
const TESTS = fileURLToPath(new URL("python/", import.meta.url));
/** Builds are the same bytes whenever they are made. */
const EPOCH = "1700000000";

for (const file of readdirSync(TESTS).filter((name) => name.startsWith("test_"))) {
  test(`tests/peers/python/${file}, with every warning an error`, { timeout: 180_000 }, async (t) => {
    const philote = file === "test_api.py" ? await startPhilote(t) : { address: "", secret: "" };
    const env = { PATH: process.env.PATH, PHILOTE_ADDRESS: philote.address, SECRET: philote.secret, PYTHONUTF8: "1" };
    const options = ["-B", "-X", "dev", "-W", "error", "-m", "unittest", "--verbose", file.replace(".py", "")];
    const { stdout, stderr, code } = await run(PYTHON, options, { cwd: TESTS, env, maxBuffer: 2 ** 26 }).catch((error) => error);
    const output = stdout + stderr;
    assert(!code, output);
    const [, count] = /^Ran (\d+) tests? in .*\n\nOK$/m.exec(output) ?? assert.fail(output);
    assert(count > 0, output);
    // What Python only prints: exceptions in destructors, and futures and tasks that nobody awaited.
    assert.doesNotMatch(output, /Exception ignored|never (awaited|retrieved)|was destroyed|Warning:/);
    t.diagnostic(`${count} tests`);
  });
}

test("the types of the Python client and of its README's examples are sound, and it needs no newer Python than 3.9", { timeout: 180_000 }, async (t) => {
  const directory = await scratch(t);
  const readme = await readFile(join(PACKAGE, "README.md"), "utf8");
  const examples = [...readme.matchAll(/```python\n# (\w+\.py)\n([^]*?)```/g)];
  assert.deepEqual(examples.map(([, name]) => name), ["chat.py", "backend.py"]);
  for (const [, name, text] of examples) await writeFile(join(directory, name), text);
  const files = [join(PACKAGE, "philote_client"), ...examples.map(([, name]) => join(directory, name))];
  const env = { PATH: process.env.PATH, MYPYPATH: PACKAGE };
  const options = ["--config-file", join(PACKAGE, "pyproject.toml"), "--cache-dir", join(directory, "cache")];
  const { stdout, code } = await run(PYTHON, ["-m", "mypy", ...options, ...files], { env }).catch((error) => error);
  assert(!code, stdout);
  const parse = "import ast, sys\nfor name in sys.argv[1:]: ast.parse(open(name).read(), feature_version=(3, 9))";
  const sources = (await readdir(files[0])).filter((name) => name.endsWith(".py"));
  await run(PYTHON, ["-c", parse, ...sources.map((name) => join(files[0], name))]);
});

test("wheel and sdist are the same bytes each time, complete, and installable without a network", DEADLINE, async (t) => {
  const directory = await scratch(t);
  const build = "import sys; from flit_core import buildapi; print(getattr(buildapi, sys.argv[1])(sys.argv[2]))";
  const [PATH, env] = [process.env.PATH, { PATH: process.env.PATH, SOURCE_DATE_EPOCH: EPOCH, PIP_NO_INDEX: "1" }];
  const names = {};
  for (const kind of ["build_wheel", "build_sdist"]) {
    const made = [];
    for (const place of ["first", "second"]) {
      await mkdir(join(directory, place), { recursive: true });
      const { stdout } = await run(PYTHON, ["-c", build, kind, join(directory, place)], { cwd: PACKAGE, env });
      names[kind] = stdout.trim();
      made.push(await readFile(join(directory, place, names[kind])));
    }
    assert(made[0].equals(made[1]), `${names[kind]} differs`);
  }
  assert.deepEqual(names, { build_wheel: "philote_client-1.0.0-py3-none-any.whl", build_sdist: "philote_client-1.0.0.tar.gz" });

  const wheel = join(directory, "first", names.build_wheel);
  const { stdout: listed } = await run(PYTHON, ["-m", "zipfile", "-l", wheel]);
  const modules = (await readdir(join(PACKAGE, "philote_client"))).filter((name) => /\.py$|py\.typed$/.test(name));
  for (const name of modules) assert.match(listed, new RegExp(`philote_client/${name} `));
  assert(modules.includes("py.typed"));

  const target = join(directory, "site");
  await mkdir(target);
  await run(PYTHON, ["-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel], { env });
  const metadata = await readFile(join(target, "philote_client-1.0.0.dist-info/METADATA"), "utf8");
  const needs = [...metadata.matchAll(/^Requires-Dist: (.*)$/gm)].map(([, text]) => text);
  assert.deepEqual(needs.map((text) => text.replace(/[<>=].*?(?=;|$)/, "").trim()).filter((text) => !/extra/.test(text)), ["websockets"]);
  // Without httpx everything works but the API.
  await writeFile(join(target, "httpx.py"), "raise ImportError('not installed')");
  const program = "import philote_client; print(philote_client.__version__, philote_client.sign('x' * 32, exp=None).count('.'))";
  const { stdout } = await run(PYTHON, ["-W", "error", "-c", program], { env: { PATH, PYTHONPATH: target } });
  assert.equal(stdout, "1.0.0 2\n");

  // The sdist contains what the wheel is built from.
  const unpacked = join(directory, "unpacked");
  await run(PYTHON, ["-m", "tarfile", "-e", join(directory, "first", names.build_sdist), unpacked]);
  await rename(join(unpacked, "philote_client-1.0.0"), join(directory, "source"));
  await mkdir(join(directory, "third"));
  await run(PYTHON, ["-c", build, "build_wheel", join(directory, "third")], { cwd: join(directory, "source"), env });
  assert((await readFile(wheel)).equals(await readFile(join(directory, "third", names.build_wheel))), "the wheel of the sdist differs");
});
