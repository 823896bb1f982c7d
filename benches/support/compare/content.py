#!/usr/bin/env python3
"""usage: content.py DIR    prints SHA-256 over path and content of every regular file: slow and thorough, never timed.

A program of its own, so that a server that hangs stops it and not the comparison.
"""

import hashlib
import os
import sys

whole = hashlib.sha256()
top = os.fsencode(sys.argv[1])
for directory, below, names in os.walk(top, onerror=lambda error: sys.exit(f"content: {error}")):
    below.sort()
    for name in sorted(names):
        path = os.path.join(directory, name)
        if os.path.isfile(path) and not os.path.islink(path):
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256")
            whole.update(os.path.relpath(path, top) + b"\0" + digest.digest())
print(whole.hexdigest())
