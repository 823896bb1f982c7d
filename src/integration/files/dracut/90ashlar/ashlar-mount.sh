#!/bin/sh
# For an initramfs without systemd. Sourced by dracut's init as a mount hook.
#
# Not as a pre-pivot hook: between the two dracut looks whether what is mounted could be a root, and unmounts what could
# not. The data partition could not. So this hook mounts it itself, by the hooks behind it, and has put the image in its
# place before dracut looks.

# Asks where the program does: dracut's getarg reads files of the initramfs, too.
ashlar_asked() {
    # shellcheck disable=SC3043  # what dracut runs under knows it
    local cmdline word
    read -r cmdline </proc/cmdline
    for word in $cmdline; do
        case $word in
        ashlar | ashlar=* | \"ashlar=*) return 0 ;;
        esac
    done
    return 1
}

ashlar_mount() {
    # shellcheck disable=SC3043  # what dracut runs under knows it
    local hook
    # shellcheck disable=SC2154  # hookdir and NEWROOT are dracut's
    for hook in "$hookdir"/mount/*.sh; do
        case $hook in
        */*ashlar-mount.sh) continue ;;
        esac
        # shellcheck source=/dev/null
        [ -f "$hook" ] && . "$hook"
        ismounted "$NEWROOT" && break
    done
    ismounted "$NEWROOT" || return 0

    modprobe -q fuse
    modprobe -q overlay

    # The bare data partition is never booted. Who leaves the shell asks for another try.
    until /usr/lib/ashlar/ashlar boot setup "$NEWROOT"; do
        /usr/lib/ashlar/panic
        emergency_shell "ashlar: no image could be made the root; leave this shell to try again"
    done
}

if ashlar_asked && ! ismounted "$NEWROOT"; then
    ashlar_mount
fi
