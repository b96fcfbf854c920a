"""Writes the upgrade script from a kept install script to today's.

    upgrade_script.py OLD.sql NEW.sql DELTA.sql FROM TO > sql/aggregator--FROM--TO.sql

What can be made or replaced (functions, views, triggers, policies, new tables, comments) follows from the two
scripts. What cannot (columns and constraints of tables that are there, functions that go, data to convert) is in
DELTA: first what comes before the functions, and, after a line '-- After the functions.', what comes last.
A DO block is taken along where the comment above it says 'Upgrades run this too'.
"""

import re
import sys

SCHEMA = "@extschema@."
TOKEN = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\$([a-z]*)\$|;", re.S)


def statements(script):
    """Pairs of a statement and the comment above it."""
    start = at = 0
    while True:
        token = TOKEN.search(script, at)
        if not token:
            return
        at = token.end()
        if token.group(1) is not None:
            at = script.index(token.group(0), at) + len(token.group(0))
        elif token.group(0) == ";":
            text = script[start:at]
            start = at
            lead = re.match(r"(?:\s+|--[^\n]*\n|/\*.*?\*/)*", text, re.S)
            # Without the lines of the source, which move with whatever is written above them.
            comment = re.findall(r"^-- (?!src/\S+:\d+$).*$", lead.group(0).split("\n\n")[-1], re.M)
            yield text[lead.end():], "\n".join(comment)


def plain(statement):
    """A statement without what makes no difference: comments outside of bodies, white space, the schema."""
    parts, at = [], 0
    for token in TOKEN.finditer(statement):
        if token.start() < at:
            continue
        parts.append(re.sub(r"\s+", " ", statement[at:token.start()]))
        at = token.end()
        if token.group(1) is not None:
            end = statement.index(token.group(0), at) + len(token.group(0))
            parts.append(statement[token.start():end])
            at = end
        elif not token.group(0).startswith(("--", "/*")):
            parts.append(token.group(0))
    return "".join(parts).replace(SCHEMA, "").replace('"', "").strip()


def key(statement):
    """What a statement is about: of two with the same key, the later one replaces the earlier one."""
    text = plain(statement)
    function = re.match(r"CREATE (?:OR REPLACE )?FUNCTION ([\w/]+) ?\(", text)
    if function:
        depth, end = 1, function.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        arguments = re.sub(r"--[^\n]*|/\*.*?\*/", "", text[function.end():end - 1], flags=re.S)
        kept = []
        for argument in re.split(r",(?![^(]*\))", arguments):
            words = re.sub(r" (DEFAULT|=) .*", "", argument.strip(), flags=re.S).split()
            if words and words[0] in ("OUT", "TABLE"):
                continue
            kept.append(" ".join(w for w in words[1 + (words[0] in ("IN", "VARIADIC")):]).lower() if words else "")
        return "FUNCTION %s(%s)" % (function.group(1), ", ".join(kept))
    for pattern in (
        r"CREATE (?:OR REPLACE )?(VIEW) (\w+)",
        r"CREATE (TABLE) (\w+)",
        r"CREATE (?:UNIQUE )?(INDEX) (?:\w+ )?ON (\w+ .*?\))(?: WITH .*)?;",
        r"CREATE (AGGREGATE) (\w+)",
        r"CREATE (DOMAIN) ([\w/]+)",
        r"CREATE (EVENT TRIGGER) (\w+)",
        r"CREATE (TRIGGER) (\w+) .*? ON (\w+)",
        r"CREATE (POLICY) (\w+) ON (\w+)",
        r"(COMMENT) ON (.*?) IS '",
    ):
        found = re.match(pattern, text, re.S)
        if found:
            return " ".join(found.groups())
    return text


def main():
    old_path, new_path, delta_path, older, newer = sys.argv[1:]
    old = {}
    for statement, _ in statements(open(old_path).read()):
        old[key(statement)] = plain(statement)
    before, _, after = open(delta_path).read().partition("-- After the functions.\n")
    out, path = [], "SET LOCAL search_path = @extschema@, pg_temp;"
    now = path

    def emit(statement, comment=""):
        nonlocal now
        if path != now:
            out.append(path + "\n")
            now = path
        out.append((comment + "\n" if comment else "") + statement + "\n")

    new = list(statements(open(new_path).read()))
    last = {key(statement): statement for statement, _ in new}
    for statement, comment in new:
        if statement.startswith("SET LOCAL search_path"):
            path = statement
            continue
        name, text = key(statement), plain(statement)
        # Of two, a comment for one, the later one holds.
        if old.get(name) == text or last[name] is not statement or statement.startswith(("INSERT", "SELECT @extschema@.aggregator_finish_script")):
            continue
        if text.startswith("DO "):
            if "Upgrades run this too" in comment:
                emit(statement, comment)
        elif name not in old:
            if not text.startswith("ALTER TABLE") or "ROW LEVEL SECURITY" in text:
                emit(statement, comment)
        elif name.startswith(("FUNCTION", "VIEW", "TRIGGER")):
            emit(re.sub(r"^CREATE +(FUNCTION|VIEW|TRIGGER)", r"CREATE OR REPLACE \1", statement), comment)
        elif name.startswith("POLICY"):
            _, policy, table = name.split()
            emit("DROP POLICY %s ON @extschema@.%s;" % (policy, table), comment)
            emit(statement)
        elif name.startswith("COMMENT"):
            emit(statement)
        # A table or an index that is there, or a type: DELTA knows what has to change.

    print("-- From %s to %s. Written by tools/upgrade_script.py (make upgrade-sql) from the two install scripts and" % (older, newer))
    print("-- sql/upgrades/%s--%s.sql: change those." % (older, newer))
    print()
    print("SET LOCAL check_function_bodies = off;")
    print("SET LOCAL search_path = pg_catalog, pg_temp;")
    print()
    print(before.strip() + "\n")
    print("SET LOCAL search_path = @extschema@, pg_temp;")
    print()
    print("\n".join(out))
    print("SET LOCAL search_path = pg_catalog, pg_temp;")
    print()
    if after.strip():
        print(after.strip() + "\n")
    print("SELECT @extschema@.aggregator_finish_script();")


main()
