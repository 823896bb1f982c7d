"""Can the comparison be believed? On a tiny tree: true answers pass, wrong ones are found, peers may be missing."""

import contextlib
import dataclasses
import html.parser
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import boot_trace, machine, markdown, page, systems
from .machine import TOP, Unavailable, WrongAnswer
from .measure import Bench
from .report import Report
from .systems import SYSTEMS, System
from .trees import Generated, generate, small_files
from .workloads import WORKLOADS

NAMED = {system.name: system for system in SYSTEMS}
LARGE = 300_000  # bytes: more than one block


def tiny_tree(directory: Path) -> Path:
    """A few hundred small files, one of several blocks, and two programs of this machine with what they need to start."""
    tree = generate(Generated("a tiny tree, 1", small_files(2, 3, 30, 4096)), directory / "tree")
    (tree / "large").write_bytes(bytes(at * at % 251 for at in range(LARGE)))
    for program in ("ls", "cat"):
        path = shutil.which(program)
        said = subprocess.run(["ldd", path], capture_output=True, text=True, timeout=20).stdout
        for part in [path, *(word for word in said.split() if word.startswith("/"))]:
            target = tree / part.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(part, target)
    return tree


class WellFormed(html.parser.HTMLParser):
    """Every element is closed, in order, and nothing is fetched or run."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        assert tag not in ("script", "link", "img"), tag
        assert not any(name in ("src", "href") for name, _ in attributes), attributes
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag


def fails(kind: type[Exception], what: Callable[[], object]) -> str:
    try:
        what()
    except kind as error:
        return str(error)
    raise AssertionError(f"{kind.__name__} was expected")


def without_runs(bench: Bench, tree: Path | None = None) -> Bench:
    """The same decisions and images, nothing measured yet."""
    other = object.__new__(Bench)
    other.__dict__.update(bench.__dict__, runs=[], unavailable={}, truth=dict(bench.truth), built=dict(bench.built))
    other.tree = tree or bench.tree
    return other


def true_answers_pass(bench: Bench, chosen: list[System]) -> None:
    bench.check_content(chosen)
    everything, little = (lambda one: one.name in ("ashlar", "plain")), WORKLOADS[1:2]
    bench.measure([one for one in chosen if everything(one)], WORKLOADS, "default", 1)
    bench.measure([one for one in chosen if not everything(one)], little, "none", 1)
    measured = {run.workload for run in bench.runs if run.system == "ashlar"}
    assert set(bench.skipped) <= {"python", "git"}, bench.skipped  # of this tree, and of a machine without git
    expected = {one.name for one in WORKLOADS} - set(bench.skipped)
    assert expected <= measured, f"not measured: {expected - measured}"
    assert "python" in bench.skipped and {"walk@overlay", "read@overlay", "exec@overlay"} <= measured
    ours = [run for run in bench.runs if run.system == "ashlar" and run.temper == "cold"]
    assert all(run.upcalls > 0 and run.server_peak_mib > 1 and run.mount_seconds > 0 for run in ours)
    assert any(run.cpu_server > 0 for run in ours)


def expected_truth_is_compared(bench: Bench) -> None:
    """Each workload with one digit of its expected checksum changed."""
    for workload in WORKLOADS:
        if workload.name not in bench.skipped:
            other = without_runs(bench)
            *counts, checksum = other.truth[workload.name]
            other.truth[workload.name] = (*counts, ("1" if checksum[0] == "0" else "0") + checksum[1:])
            said = fails(WrongAnswer, lambda: other.measure([NAMED["plain"]], [workload], "none", 1))
            assert workload.label in said and not other.runs, said


def changed_trees_are_found(bench: Bench, directory: Path) -> None:
    """A server of a tree that differs: one byte, one mode, two files exchanged."""
    reading = {"read", "read4", "big", "touch"}

    def flip(tree: Path) -> None:
        with open(tree / "large", "r+b") as file:
            file.seek(LARGE // 4096 * 4096)  # where also who looks at one byte of a page looks
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))

    def change_mode(tree: Path) -> None:
        (tree / "large").chmod(stat.S_IRUSR)

    def exchange(tree: Path) -> None:
        one, other = tree / "00/00/000.txt", tree / "01/01/001.txt"
        one.rename(tree / "aside"), other.rename(one), (tree / "aside").rename(other)

    for change, finds in ((flip, reading), (change_mode, {"walk"}), (exchange, {"read", "read4", "git"})):
        tree = directory / "changed"
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(bench.tree, tree, symlinks=True)
        change(tree)
        other = without_runs(bench, tree)
        for workload in WORKLOADS:
            if workload.name in finds - set(bench.skipped):
                fails(WrongAnswer, lambda: other.measure([NAMED["plain"]], [workload], "none", 1))
        if change is not change_mode:
            # The same image under another name for the truth: the SHA-256 of everything differs.
            fails(WrongAnswer, lambda: other.check_content([NAMED["ashlar"]]))


def peers_may_be_missing(bench: Bench) -> dict[str, str]:
    """No builder, a builder that fails, a server that ends at once, one that never mounts, no such file system."""
    directory = NAMED["squashfs"].build
    peers = [
        System("no-builder", "no builder", "kernel", "a.img", lambda *_: ["no-such-builder"], kernel_type="erofs"),
        System("bad-builder", "bad builder", "kernel", "b.img", lambda *_: ["false"], kernel_type="erofs"),
        System("ends", "ends", "fuse", "ashlar-64k.img", directory, lambda *_: ["false"]),
        System("hangs", "hangs", "fuse", "ashlar-64k.img", directory, lambda *_: ["sleep", "1000"]),
        System("no-kernel", "no kernel", "kernel", "ashlar-64k.img", directory, kernel_type="no-such-type"),
    ]
    usual, systems.SERVER_LIMIT = systems.SERVER_LIMIT, 0.3
    try:
        bench.build_all(peers, reuse=False)
        bench.measure(peers, WORKLOADS[:1], "none", 1)
    finally:
        systems.SERVER_LIMIT = usual
    assert set(bench.unavailable) >= {peer.name for peer in peers}, bench.unavailable
    ours = dataclasses.replace(peers[2], name="ends-too", group="ours")
    fails(Unavailable, lambda: bench.measure([ours], WORKLOADS[:1], "none", 1))
    return {peer.name: bench.unavailable[peer.name] for peer in peers}


def reports_come_out(data: dict, missing: dict[str, str]) -> None:
    data = json.loads(json.dumps(data))
    text = markdown.render(Report(data))
    looked_for = [one["label"] for one in data["workloads"] + data["systems"]] + list(missing.values())
    for part in [*looked_for, "reached", "## Goals", "## The floor", "not available"]:
        assert part in text, f"not in the tables: {part}"
    shown = page.render(Report(data))
    parser = WellFormed()
    parser.feed(shown)
    assert not parser.open and parser.seen.count("svg") > len(data["workloads"]), parser.open
    # What we lose is told, and what we win: with our times a thousand times as long, and as short.
    for factor, expected in ((1000, False), (1e-6, True)):
        for run in data["runs"]:
            run["seconds"] *= factor if run["system"] == "ashlar" else 1
        other = Report(data)
        about_time = [goal for goal in other.goals() if goal.limit.endswith("×") and "size" not in goal.what]
        assert {goal.reached["ashlar"] for goal in about_time} == {expected, None}, about_time
        assert ("**" in markdown.render(other)) == (not expected)
        assert page.render(other).count("badge missed") >= sum(goal.reached["ashlar"] is False for goal in about_time)


def traces_are_read(bench: Bench, directory: Path) -> None:
    trace = directory / "trace"
    trace.write_text("ashlar trace 1\n0 100 /large\n4096 8192 /large\n0 1 /no such file\n")
    ranges, said = boot_trace.given(trace, bench.plan.files)
    assert ranges == [(0, 100, "large"), (4096, 8192, "large")] and "1 lines name" in said, said
    trace.write_text(boot_trace.text(ranges))
    assert boot_trace.given(trace, bench.plan.files)[0] == ranges


def main(directory: Path, result: Callable) -> None:
    start = time.monotonic()
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        sys.exit("compare: self-test skipped: no /dev/fuse")
    # The tests' own build: it is there already where the tests are run.
    subprocess.run(["cargo", "build", "--quiet", "--workspace"], cwd=TOP, check=True)
    systems.BINARIES["profile"] = "debug"
    directory.mkdir(exist_ok=True)
    with open(directory / "notes", "w") as notes, contextlib.redirect_stderr(notes):
        all_steps(directory, result, start)


def all_steps(directory: Path, result: Callable, start: float) -> None:
    chosen = [NAMED[name] for name in ("ashlar", "squashfs", "squashfuse", "plain")]
    bench = Bench(tiny_tree(directory), directory, None)

    def step(what: str) -> None:
        print(f"compare: self-test: {what} ({time.monotonic() - start:.1f} s)", flush=True)

    bench.learn_truth(WORKLOADS)
    bench.build_all(chosen, reuse=False)
    true_answers_pass(bench, chosen)
    step("true answers pass")
    expected_truth_is_compared(without_runs(bench))
    changed_trees_are_found(bench, directory)
    step("wrong answers are found")
    missing = peers_may_be_missing(other := without_runs(bench))
    step("missing peers are rows")
    traces_are_read(bench, directory)
    bench.unavailable |= other.unavailable
    absent = [System(name, name, "fuse") for name in missing]
    reports_come_out(result("a tiny tree", bench, chosen + absent, WORKLOADS, 1, ["no versions"]), missing)
    step("tables and page come out")
    assert not machine.mounts_below(directory), machine.mounts_below(directory)
    step("nothing stays mounted")
