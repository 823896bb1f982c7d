#!/usr/bin/env python3
"""Reads a tar archive from standard input and prints a line for each member: all that it says, and a hash of its content.

Extended attributes are sorted: tar writes them in the order in which a file system lists them, which is nobody's promise.
"""

import hashlib
import sys
import tarfile

archive = tarfile.open(fileobj=sys.stdin.buffer, mode="r|", errors="surrogateescape")
for member in archive:
    content = hashlib.sha256()
    if member.isreg():
        reader = archive.extractfile(member)
        while piece := reader.read(1 << 20):
            content.update(piece)
    fields = [
        member.name, member.type, oct(member.mode), member.uid, member.gid, member.size, member.mtime, member.linkname,
        member.devmajor, member.devminor, sorted(member.pax_headers.items()), content.hexdigest(),
    ]
    print(*map(ascii, fields))
