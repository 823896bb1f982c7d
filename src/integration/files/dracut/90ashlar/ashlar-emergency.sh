#!/bin/sh
# Sourced before dracut gives anybody a shell, whatever failed: the data partition was not there, or held no root.

read -r ashlar_cmdline </proc/cmdline
for ashlar_word in $ashlar_cmdline; do
    case $ashlar_word in
    ashlar | ashlar=* | \"ashlar=*)
        /usr/lib/ashlar/panic
        break
        ;;
    esac
done
