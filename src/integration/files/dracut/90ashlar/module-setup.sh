#!/bin/bash
# Puts into the initramfs what makes the root from an image: the program, its keys, its configuration, two modules.

# Included wherever the program is: `ashlar boot install --dracut` put it there together with this module.
check() {
    require_binaries /usr/lib/ashlar/ashlar || return 1
    return 0
}

depends() {
    echo base
}

installkernel() {
    # Whatever this machine has loaded now: it may not run from an image yet.
    hostonly='' instmods fuse overlay
}

install() {
    local file
    inst_simple /usr/lib/ashlar/ashlar
    inst_simple /usr/lib/ashlar/panic
    # For the one who has to find out at the shell why there is no root.
    ln_r /usr/lib/ashlar/ashlar /usr/sbin/ashlar

    for file in "${dracutsysrootdir-}"/etc/ashlar/keys/*.pub "${dracutsysrootdir-}"/etc/ashlar/{ashlar.toml,mode-hook}; do
        [[ -f $file ]] && inst_simple "${file#"${dracutsysrootdir-}"}"
    done

    # Whatever else fails: no shell where panic= forbids it.
    inst_hook emergency 01 "${moddir:?}/ashlar-emergency.sh"

    if dracut_module_included systemd; then
        # systemd mounts the data partition; the unit comes right behind.
        inst_simple "${moddir:?}/ashlar-root.service" "${systemdsystemunitdir:?}/ashlar-root.service"
        mkdir -p "${initdir:?}$systemdsystemunitdir/initrd-root-fs.target.requires"
        ln -sfn ../ashlar-root.service \
            "$initdir$systemdsystemunitdir/initrd-root-fs.target.requires/ashlar-root.service"
    else
        # Ahead of those that mount (99): see the head of the script.
        inst_hook mount 90 "${moddir:?}/ashlar-mount.sh"
    fi
    return 0
}
