"""Which trees are compared? The Debian root of the tests, and generated ones: the same bytes on every machine."""

import dataclasses
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from .machine import note, support

SEED = 20_240_607
OLD = 1_700_000_000  # all generated files were changed then, long before any index is made
WORDS = 30_000
PASSAGE = 8 << 20  # bytes of text that small files take pieces from: one block hardly holds the same piece twice
HUGE = 256 << 20
CHUNK = 1 << 20


@dataclasses.dataclass
class Generated:
    """`recipe` changes whenever the content does."""

    recipe: str
    files: Callable[[random.Random], Iterator[tuple[str, Iterator[bytes]]]]


def text(dice: random.Random, length: int) -> bytes:
    """Looks like language to a compressor: a few words are frequent, most are rare."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    weights = range(26, 0, -1)
    words = ["the", *("".join(dice.choices(letters, weights, k=dice.randrange(2, 11))) for _ in range(WORDS))]
    frequency = [1 / (rank + 5) for rank in range(len(words))]
    picked = dice.choices(words, frequency, k=length // 5)
    return " ".join(picked).encode()[:length]


def small_files(outer: int, inner: int, each: int, longest: int) -> Callable:
    """`outer` directories of `inner` directories of `each` files, the sizes of a source tree's scaled to `longest`."""

    def files(dice: random.Random) -> Iterator[tuple[str, Iterator[bytes]]]:
        passage = text(dice, PASSAGE)
        for number in range(outer * inner * each):
            above, file = divmod(number, each)
            path = f"{above // inner:02d}/{above % inner:02d}/{file:03d}.txt"
            size = min(int(dice.paretovariate(0.8) * longest / 64), longest)
            at = dice.randrange(len(passage) - size)
            yield path, iter([b"the file %d\n" % number + passage[at : at + size]])

    return files


def huge_files(dice: random.Random) -> Iterator[tuple[str, Iterator[bytes]]]:
    passage = text(dice, PASSAGE)
    chunks = HUGE // CHUNK

    def prose() -> Iterator[bytes]:
        for _ in range(chunks):
            at = dice.randrange(len(passage) - CHUNK)
            yield passage[at : at + CHUNK]

    def numbers() -> Iterator[bytes]:
        for chunk in range(chunks):
            steps = dice.randbytes(CHUNK // 8)
            yield b"".join((chunk << 20 | step).to_bytes(8, "little") for step in steps)

    def noise() -> Iterator[bytes]:
        return (dice.randbytes(CHUNK) for _ in range(chunks))

    def half_zero() -> Iterator[bytes]:
        return (bytes(CHUNK) if chunk % 2 else dice.randbytes(CHUNK) for chunk in range(chunks))

    yield from [("prose", prose()), ("numbers", numbers()), ("noise", noise()), ("half-zero", half_zero())]


GENERATED = {
    "small": Generated("200000 files, 1", small_files(100, 20, 100, 16 << 10)),
    "million": Generated("1000000 files, 1", small_files(100, 20, 500, 256)),
    "huge": Generated("4 huge files, 1", huge_files),
}


def generate(kind: Generated, tree: Path) -> Path:
    """Makes it once; a stamp beside it tells whether it is whole and of this recipe."""
    stamp = tree.with_name(tree.name + ".recipe")
    if stamp.exists() and stamp.read_text() == kind.recipe and tree.is_dir():
        return tree
    note(f"generating: {kind.recipe.rsplit(',', 1)[0]}")
    stamp.unlink(missing_ok=True)
    shutil.rmtree(tree, ignore_errors=True)
    made = set()
    for name, chunks in kind.files(random.Random(SEED)):
        path = tree / name
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        with open(path, "wb", buffering=0) as file:
            for chunk in chunks:
                file.write(chunk)
        os.utime(path, (OLD, OLD))
    stamp.write_text(kind.recipe)
    return tree


def find(asked: str, work: Path) -> tuple[str, Path]:
    """The name of a tree and where it lies, for `debian`, a generated one, or any directory."""
    if asked == "debian":
        return "Debian root", Path(support("debian_tree.sh")).resolve()
    if asked in GENERATED:
        kind = GENERATED[asked]
        return f"generated, {kind.recipe.rsplit(',', 1)[0]}", generate(kind, work / "trees" / asked)
    return asked, Path(asked).resolve()
