"""Prints the licences of what is linked into the programs, as cargo knows it. The same crates give the same bytes."""
import json, pathlib, re, subprocess, sys

LICENCE = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)([-._].*)?", re.IGNORECASE)

HEAD = """Notices of what is linked into philote, philotectl and jane

Philote itself is under the MIT licence. The crates below are linked into its programs, under the licences that they
name; the numbers are those of the texts that they bring, which follow, each once.

Rust's standard library is linked as well: MIT OR Apache-2.0, copyright the Rust Project contributors. The programs that
need no libc of the system's, those of the tarball and of the image, have the GNU C library in them: LGPL-2.1-or-later,
copyright the Free Software Foundation, https://www.gnu.org/software/libc/. Philote's sources link them anew with any.
"""


def cargo(*words):
    return subprocess.run(["cargo", *words, "--locked"], check=True, capture_output=True, text=True).stdout


def linked():
    """The crates that end up in the programs: without those of tests, and those that run at compile time."""
    host = subprocess.run(["rustc", "--print", "host-tuple"], check=True, capture_output=True, text=True).stdout.strip()
    packages = json.loads(cargo("metadata", "--format-version", "1", "--filter-platform", host))["packages"]
    tree = cargo("tree", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}")
    names = {tuple(line.split()[:2]) for line in tree.splitlines()}
    found = [package for package in packages if (package["name"], "v" + package["version"]) in names]
    if len(found) != len(names):
        sys.exit("notices.py: cargo metadata does not describe all that cargo tree names")
    crates = [package for package in found if package["source"]]
    return sorted(crates, key=lambda package: (package["name"], package["version"]))


def texts(package):
    """What the crate says of its licence, the nearest file first; ends of lines and blanks around make no difference."""
    top = pathlib.Path(package["manifest_path"]).parent
    files = {path for path in top.rglob("*") if LICENCE.fullmatch(path.name) and path.is_file()}
    if package["license_file"]:
        files.add(top / package["license_file"])
    for path in sorted(files, key=lambda path: (len(path.parts), path)):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        yield "\n".join(line.rstrip() for line in lines).strip("\n")


def main():
    numbers, entries = {}, []
    for package in linked():
        own = [numbers.setdefault(text, len(numbers) + 1) for text in dict.fromkeys(texts(package))]
        if not own and not package["license"]:
            sys.exit(f"notices.py: {package['name']} {package['version']} says nothing of its licence")
        brought = ", ".join(map(str, own)) or "brings no text"
        entries.append(f"{package['name']} {package['version']}: {package['license']} ({brought})")
    print(HEAD)
    print("\n".join(entries))
    for text, number in numbers.items():
        print(f"\n{'-' * 80}\n{number}\n\n{text}")


if __name__ == "__main__":
    main()
