"""Checks the crates that the extension and its tests are made of against deny.toml: each licence is one that it allows,
each comes from crates.io and is not banned, and none that the extension is built of takes a newer Rust. cargo-deny does
most of it too, and more, but takes minutes to build.

    cargo metadata --format-version 1 --locked --filter-platform TARGET | crates.py deny.toml
"""

import json
import re
import sys

CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def allows(expression, allowed):
    """Whether an SPDX expression can be met with these licences. Some crates write / for OR."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))

    def chain(word, part, together):
        met = [part()]
        while tokens and tokens[0] == word:
            tokens.pop(0)
            met.append(part())
        return together(met)

    def either():
        return chain("OR", lambda: chain("AND", one, all), any)

    def one():
        token = tokens.pop(0)
        if token == "(":
            met = either()
            if tokens.pop(0) != ")":
                raise ValueError
            return met
        if tokens and tokens[0] == "WITH":
            token += " WITH " + tokens[1]
            del tokens[:2]
        used.add(token)
        return token in allowed

    used = set()
    met = either()
    if tokens:
        raise ValueError
    return met, used


def version(text):
    return [int(part) for part in text.split(".")][:2]


def built_of(root, nodes):
    """What a crate is built of; what its tests take beside that is left out."""
    found, left = set(), [root]
    while left:
        at = left.pop()
        if at not in found:
            found.add(at)
            left += [
                dependency["pkg"]
                for dependency in nodes[at]["deps"]
                if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
            ]
    return found


def main():
    deny = open(sys.argv[1]).read()
    allowed = re.findall(r'"([^"]+)"', re.search(r"^allow = \[(.*?)\]", deny, re.M | re.S).group(1))
    banned = re.findall(r'crate = "([^"]+)"', deny)
    metadata = json.load(sys.stdin)
    # Of all that the lock file has, what is used on this platform.
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    extension = next(package for package in metadata["packages"] if package["name"] == "aggregator")
    parts = built_of(extension["id"], nodes)
    wrong, seen = [], set()
    for package in metadata["packages"]:
        if package["id"] not in nodes:
            continue
        name = "%(name)s %(version)s" % package
        if package["source"] not in (None, CRATES_IO):
            wrong.append("%s comes from %s" % (name, package["source"]))
        newest = package["rust_version"] or "1.0"
        if package["id"] in parts and version(newest) > version(extension["rust_version"]):
            wrong.append("%s takes Rust %s, and Cargo.toml promises %s" % (name, newest, extension["rust_version"]))
        if package["name"] in banned:
            wrong.append("%s is banned" % name)
        try:
            met, used = allows(package["license"] or "", allowed)
        except (IndexError, ValueError):
            met, used = False, set()
        seen |= used
        if not met:
            wrong.append("%s is under %s" % (name, package["license"]))
    wrong += ["nothing is under %s" % licence for licence in allowed if licence not in seen]
    for line in wrong:
        print("crates: " + line, file=sys.stderr)
    if len(parts) < 100:
        sys.exit("crates: only %d were found" % len(parts))
    sys.exit(1 if wrong else 0)


main()
