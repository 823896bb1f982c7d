#!/bin/sh
# Sourced before dracut gives anybody a shell, whatever failed: the data partition was not there, or held no root.

/usr/lib/ashlar/panic
