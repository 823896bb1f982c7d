# What is the tree like? For the machine that is measured and for the host, who knows what is right.
# shellcheck shell=bash

# walk ROOT: a line for each file of a tree, but not of what is mounted on it. Asks for the attributes of each.
walk() {
    local place prune=()
    for place in dev proc sys run tmp var etc/machine-id lost+found; do
        prune+=(-path "${1%/}/$place" -prune -o)
    done
    # The size of a directory is every file system's own.
    find "$1" -mindepth 1 -xdev "${prune[@]}" -type d -printf '%P d %m %U %G\n' -o -printf '%P %y %m %U %G %s\n'
}
