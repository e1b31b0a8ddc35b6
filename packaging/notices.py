"""Prints the licences of the crates that are linked into the programs, according to cargo: notices.py TARGET, where TARGET is
rustc's name of the platform. The same crates give the same bytes.
"""
import json, pathlib, re, subprocess, sys

LICENCE = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)([-._].*)?", re.IGNORECASE)

HEAD = """Licences of the code that is linked into philote, philotectl and jane

Philote itself is under the MIT licence. The crates below are linked into its programs, under the licences that they
name. The numbers refer to the licence texts below; each text is printed once.

Rust's standard library is linked as well: MIT OR Apache-2.0, copyright the Rust Project contributors. The programs in
the tarball and the image are linked statically with the GNU C library: LGPL-2.1-or-later, copyright the Free Software
Foundation, https://www.gnu.org/software/libc/. They can be linked with another version from Philote's sources.
"""


def cargo(*words):
    return subprocess.run(["cargo", *words, "--locked"], check=True, capture_output=True, text=True).stdout


def linked(target):
    """Returns the crates that are linked into the programs, without those of tests and those that run at compile time."""
    packages = json.loads(cargo("metadata", "--format-version", "1", "--filter-platform", target))["packages"]
    tree = cargo("tree", "--target", target, "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}")
    names = {tuple(line.split()[:2]) for line in tree.splitlines()}
    found = [package for package in packages if (package["name"], "v" + package["version"]) in names]
    if len(found) != len(names):
        sys.exit("notices.py: cargo metadata lacks a crate that cargo tree lists")
    crates = [package for package in found if package["source"]]
    return sorted(crates, key=lambda package: (package["name"], package["version"]))


def texts(package):
    """Yields the licence texts of a crate, the nearest file first, with line ends and surrounding blanks normalised."""
    top = pathlib.Path(package["manifest_path"]).parent
    files = {path for path in top.rglob("*") if LICENCE.fullmatch(path.name) and path.is_file()}
    if package["license_file"]:
        files.add(top / package["license_file"])
    for path in sorted(files, key=lambda path: (len(path.parts), path)):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        yield "\n".join(line.rstrip() for line in lines).strip("\n")


def main(target):
    numbers, entries = {}, []
    for package in linked(target):
        own = [numbers.setdefault(text, len(numbers) + 1) for text in dict.fromkeys(texts(package))]
        if not own and not package["license"]:
            sys.exit(f"notices.py: {package['name']} {package['version']} has no licence")
        brought = ", ".join(map(str, own)) or "no text"
        entries.append(f"{package['name']} {package['version']}: {package['license']} ({brought})")
    print(HEAD)
    print("\n".join(entries))
    for text, number in numbers.items():
        print(f"\n{'-' * 80}\n{number}\n\n{text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
