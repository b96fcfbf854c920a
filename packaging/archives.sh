#!/usr/bin/env bash
# Makes the archives: of the built files in $FILES, and of the sources. Sourced by build.sh.

name=aggregator-$VERSION-pg$PG-linux-$ARCH
cp -r LICENSE CHANGELOG.md README.md SECURITY.md SCALING.md CONTRIBUTING.md docs packaging/INSTALL "$FILES/"
tar --create --directory "$FILES" --transform "s,^\.,$name," --sort=name --owner=0 --group=0 --numeric-owner \
    --mode=u=rwX,go=rX --mtime="@$SOURCE_DATE_EPOCH" . | gzip -9n > "$DIST/$name.tar.gz"

# Of the commit, not of what lies about.
if [ -n "$(commit_of %h)" ]; then
    git archive --format=zip --prefix="aggregator-$VERSION/" --output "$DIST/aggregator-$VERSION.zip" HEAD
else
    say "NO GIT REPOSITORY: the source archive for PGXN is NOT made"
fi
