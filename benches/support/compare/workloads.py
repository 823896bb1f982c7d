"""What is asked of a tree? Each workload is one command of workload.c, and the lists of files that it works through."""

import dataclasses
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from . import boot_trace
from .machine import Command, Unavailable, note, run
from .programs import Binaries
from .trees import SEED

BIGGEST_FILES = 8
RANDOM_READS = 2000
RANDOM_FILE_AT_LEAST = 64 << 10  # random reads are meant to fall into files, not to open small ones
SMALL_FILES = 2000
SMALL_FILE_AT_MOST = 16 << 10
PROGRAMS = 300
SUBTREE = "usr/share"
SUBTREE_FILES_MAX = 50_000
SUBTREE_BYTES_MAX = 1 << 30
PATTERN = "the"
# Modules that import alone, without a display, a network or anything that tells the user something.
MODULES = """abc argparse array ast asyncio base64 bisect bz2 calendar cmd code codecs collections colorsys compileall
concurrent.futures configparser contextlib copy csv ctypes curses dataclasses datetime decimal difflib dis doctest email
email.mime.multipart encodings.idna ensurepip enum filecmp fileinput fnmatch fractions ftplib functools getpass gettext glob
graphlib gzip hashlib heapq hmac html html.parser http.client http.cookiejar http.server imaplib importlib.metadata inspect
ipaddress json keyword linecache locale logging logging.config logging.handlers lzma mailbox marshal mimetypes mmap
modulefinder multiprocessing multiprocessing.managers netrc nntplib numbers operator optparse pathlib pdb pickle pickletools
pkgutil platform plistlib poplib pprint profile pstats pty pyclbr pydoc queue quopri random re reprlib runpy sched secrets
selectors shelve shlex shutil signal smtplib socket socketserver sqlite3 ssl stat statistics string stringprep subprocess
symtable sysconfig tabnanny tarfile telnetlib tempfile textwrap threading timeit tokenize trace traceback tracemalloc types
typing unittest unittest.mock urllib.request urllib.robotparser uuid venv warnings wave weakref wsgiref.simple_server
xml.dom.minidom xml.etree.ElementTree xml.sax xmlrpc.client xmlrpc.server zipapp zipfile zipimport zoneinfo"""
IMPORT = """import importlib
for name in '''%s'''.split():
    try:
        importlib.import_module(name)
        print(name)
    except ImportError:
        pass
""" % MODULES
# What the host's own programs are told: no other language, no other person's settings, no locks.
ENVIRONMENT = {
    "PATH": os.environ.get("PATH", ""),
    "LC_ALL": "C",
    "HOME": "/nonexistent",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
}


@dataclasses.dataclass
class Workload:
    """`arguments` follow the name of workload.c's program. `programs` of the host do the work and are warm before it."""

    name: str
    label: str
    arguments: Callable[["Plan", Path], Command]
    missing: Callable[["Plan"], str | None] = lambda plan: None
    programs: tuple[str, ...] = ()
    overlaid: bool = False  # also through an overlayfs, unless asked otherwise


def listed(verb: str, name: str) -> dict:
    return {
        "arguments": lambda plan, top: [verb, top, plan.work / name],
        "missing": lambda plan: None if plan.lengths[name] else f"the tree has nothing for the list `{name}`",
    }


def grep(plan: "Plan", top: Path) -> Command:
    return ["run", top / plan.subtree, shutil.which("grep"), "-r", "-F", "-c", "-e", PATTERN, "."]


def git_status(plan: "Plan", top: Path) -> Command:
    return ["run", top / plan.subtree, *plan.git("."), "status", "--porcelain", "--branch"]


def python_imports(plan: "Plan", top: Path) -> Command:
    # The tree's own interpreter, alone (-I) and writing nothing (-B).
    return ["chroot", top, "/usr/bin/python3", "-I", "-B", "-c", IMPORT]


WORKLOADS = [
    Workload("walk", "walk + stat", lambda plan, top: ["walk", top], overlaid=True),
    Workload("read", "read all, 1 reader", lambda plan, top: ["read", top, "1"], overlaid=True),
    Workload("read4", "read all, 4 readers", lambda plan, top: ["read", top, "4"]),
    Workload("big", f"{BIGGEST_FILES} biggest files", **listed("files", "biggest")),
    Workload("random", f"{RANDOM_READS} random 4 KiB", **listed("ranges", "random")),
    Workload("small", f"{SMALL_FILES} random small files", **listed("files", "small")),
    Workload("touch", "mmap touch", **listed("touch", "biggest")),
    Workload("exec", f"exec storm, {PROGRAMS} programs", **listed("exec", "programs"), overlaid=True),
    Workload("grep", "grep -r", grep, lambda plan: plan.no_subtree, ("grep",)),
    Workload("git", "git status", git_status, lambda plan: plan.no_subtree or plan.no_repository, ("git",)),
    Workload("python", "python imports", python_imports, lambda plan: plan.no_python),
    Workload("boot", "boot trace", **listed("ranges", "boot")),
]


class Plan:
    """Everything that is decided about one tree before anybody is measured; the same for all systems."""

    def __init__(self, tree: Path, work: Path, trace: Path | None):
        self.tree, self.work = tree, work
        self.files = regular_files(tree)
        self.lengths: dict[str, int] = {}
        self.no_python = None if (tree / "usr/bin/python3").exists() else "the tree has no python3"
        self.no_repository: str | None = "no repository was asked for"
        dice = random.Random(SEED)
        self.write("biggest", [(0, 0, path) for size, path in self.files[-BIGGEST_FILES:] if size])
        self.write("random", random_pages(self.files, dice))
        small = [path for size, path in self.files if 0 < size <= SMALL_FILE_AT_MOST]
        self.write("small", [(0, 0, path) for path in dice.sample(small, min(len(small), SMALL_FILES))])
        binaries = Binaries(tree).of(self.files)
        self.write("programs", [(0, 0, path) for path in dice.sample(binaries, min(len(binaries), PROGRAMS))])
        ranges, self.trace = boot_trace.given(trace, self.files) if trace else boot_trace.sample(self.files)
        self.write("boot", ranges)
        (work / "boot.trace").write_text(boot_trace.text(ranges), errors="surrogateescape")
        self.subtree, self.no_subtree = choose_subtree(self.files)

    def write(self, name: str, lines: list[tuple[int, int, str]]) -> None:
        self.lengths[name] = len(lines)
        text = b"".join(b"%d %d %s\n" % (offset, length, os.fsencode(path)) for offset, length, path in lines)
        (self.work / name).write_bytes(text)

    def git(self, working_tree: Path | str) -> Command:
        return [shutil.which("git"), f"--git-dir={self.work / 'repository'}", f"--work-tree={working_tree}"]

    def make_repository(self) -> None:
        """
        The subtree becomes a clean working tree. What git keeps about it lies outside, so that the tree stays what
        it is, and what is measured is the storm itself: every file's lstat, every directory's list. An index
        remembers the file system as well; `minimal` is git's own word for a tree that has moved.
        """
        repository = self.work / "repository"
        shutil.rmtree(repository, ignore_errors=True)
        settings = {"core.checkStat": "minimal", "core.trustCtime": "false", "core.compression": "0", "gc.auto": "0",
                    "user.name": "compare", "user.email": "compare@localhost"}  # fmt: skip
        git = self.git(self.tree / self.subtree) if shutil.which("git") else None
        try:
            if not git:
                raise Unavailable("this machine has no git")
            run([*git, "init", "--quiet", "--initial-branch=main"], env=ENVIRONMENT)
            for key, value in settings.items():
                run([*git, "config", key, value], env=ENVIRONMENT)
            run([*git, "add", "--all", "--force", "."], env=ENVIRONMENT, cwd=self.tree / self.subtree)
            run([*git, "commit", "--quiet", "--message=all"], env=ENVIRONMENT)
            self.no_repository = None
        except Unavailable as error:
            self.no_repository = str(error)


def regular_files(tree: Path) -> list[tuple[int, str]]:
    """Size and path of every regular file that a line of text can name, in a fixed order."""
    found = []
    for directory, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path) and "\n" not in path:
                found.append((os.path.getsize(path), os.path.relpath(path, tree)))
    return sorted(found)


def random_pages(files: list[tuple[int, str]], dice: random.Random) -> list[tuple[int, int, str]]:
    large = [(size, path) for size, path in files if size >= RANDOM_FILE_AT_LEAST]
    if not large:
        return []
    # By size, so that every page of the tree is about as likely as any other.
    chosen = dice.choices(large, weights=[size for size, _ in large], k=RANDOM_READS)
    return [(dice.randrange(size // 4096) * 4096, 4096, path) for size, path in chosen]


def choose_subtree(files: list[tuple[int, str]]) -> tuple[str, str | None]:
    """For grep and git: /usr/share, or else the directory at the top with the most files that is not too large."""
    counts: dict[str, list[int]] = {}
    for size, path in files:
        for top in {path.split("/")[0], SUBTREE if path.startswith(SUBTREE + "/") else path.split("/")[0]}:
            if "/" in path:
                count = counts.setdefault(top, [0, 0])
                count[0] += 1
                count[1] += size
    fit = {top: n for top, (n, size) in counts.items() if n <= SUBTREE_FILES_MAX and size <= SUBTREE_BYTES_MAX}
    if not fit:
        return "", "the tree has no directory of a fitting size"
    return (SUBTREE if SUBTREE in fit else max(sorted(fit), key=fit.get)), None


def warm_up(programs: tuple[str, ...]) -> None:
    """Reads the host's own programs and their libraries into the page cache: they are not what is measured."""
    for path in {path for program in programs for path in parts_of(program)}:
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass


def parts_of(program: str, known: dict[str, list[str]] = {}) -> list[str]:  # noqa: B006 - remembers on purpose
    if program not in known:
        path = shutil.which(program)
        said = subprocess.run(["ldd", path], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20)
        libraries = [word for word in said.stdout.split() if word.startswith("/")]
        known[program] = [path, *libraries]
        note(f"kept warm: {path} and {len(libraries)} libraries")
    return known[program]
