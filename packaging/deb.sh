#!/usr/bin/env bash
# Makes the Debian package out of $FILES. Sourced by build.sh.

root=$STAGE/deb
doc=$root/usr/share/doc/$PACKAGE
mkdir -p "$root/DEBIAN" "$doc" "$root/usr/lib/postgresql/$PG/lib" "$root/usr/share/postgresql/$PG"
cp "$FILES/lib/aggregator.so" "$root/usr/lib/postgresql/$PG/lib/"
cp -r "$FILES/share/extension" "$root/usr/share/postgresql/$PG/"

gzip -9n < CHANGELOG.md > "$doc/changelog.gz"
gzip -9n > "$doc/changelog.Debian.gz" <<TEXT
postgresql-aggregator ($VERSION-1) unstable; urgency=medium

  * See changelog.gz.

 -- $MAINTAINER  $(date -R -d "@$SOURCE_DATE_EPOCH")
TEXT
cat > "$doc/copyright" <<TEXT
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: aggregator

Files: *
$(sed -n 's/^Copyright (c) /Copyright: /p' LICENSE)
License: PostgreSQL
$(sed '1,/^Copyright/d; /^$/s/^/./; s/^/ /' LICENSE | sed '1{/^ \.$/d}')
TEXT

# The oldest C library whose symbols suffice.
libc=$(objdump -T "$FILES/lib/aggregator.so" | grep -oP 'GLIBC_\K[0-9.]+' | sort -Vu | tail -n 1)
cat > "$root/DEBIAN/control" <<TEXT
Package: $PACKAGE
Source: postgresql-aggregator
Version: $VERSION-1
Architecture: $ARCH
Maintainer: $MAINTAINER
Installed-Size: $(du -k --apparent-size -s --exclude=DEBIAN "$root" | cut -f1)
Depends: postgresql-$PG, libc6 (>= $libc), libgcc-s1 (>= 4.2), ca-certificates
Suggests: postgresql-$PG-cron
Section: database
Priority: optional
Description: gateway to large language models for PostgreSQL $PG
 aggregator turns a PostgreSQL database into a multi-tenant gateway to large
 language models. End users bring their own keys, which are sealed and secured
 by row; catalogues of models sync from OpenRouter, AiHubMix and others; and any
 SQL client calls chat functions: whole, streamed row by row, many at once, or
 as a durable job. Every request is in the usage log with its exact cost.
TEXT
(cd "$root" && find usr -type f | sort | xargs md5sum) > "$root/DEBIAN/md5sums"
chmod -R u=rwX,go=rX "$root"
# One thread: how xz divides its work shows in the bytes.
dpkg-deb --root-owner-group -Zxz --threads-max=1 --build "$root" "$DIST/${PACKAGE}_$VERSION-1_$ARCH.deb" > /dev/null
