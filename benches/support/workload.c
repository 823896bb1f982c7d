/*
 * The timed half of benches/compare: reads a tree in one of five ways and prints
 *
 *     SECONDS ITEMS BYTES CHECKSUM
 *
 * The clock starts after the program itself is in memory. The checksum depends on every name, attribute
 * and byte seen and on their positions, but not on the order of directories, which systems may choose;
 * it costs about as much as touching the bytes once, so that it does not hide what is measured.
 *
 *     workload walk DIR           lstat of everything
 *     workload read DIR           content of every regular file, in the order directories list them
 *     workload files DIR LIST     content of the files LIST names, front to back
 *     workload random DIR LIST    one open + 4 KiB pread + close per line of LIST
 *     workload touch DIR LIST     one byte of every page of the files LIST names, through mmap
 *
 * LIST holds lines `OFFSET PATH`, the path relative to DIR.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LANES = 8, PAGE = 4096, CHUNK = 128 * 1024 };

/* From FILES on, a workload needs a list. */
enum what { WALK, READ, FILES, RANDOM, TOUCH, WHATS };
static const char *const WHAT[] = {"walk", "read", "files", "random", "touch"};

static uint64_t items, bytes, checksum;
static _Alignas(64) unsigned char buffer[CHUNK];

/* Fletcher's sum over eight lanes of 64 bits: wide enough for the compiler to vectorise. */
struct sum {
    uint64_t plain[LANES], weighted[LANES];
};

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 29;
}

static void sum_chunk(struct sum *sum, const unsigned char *data, size_t len)
{
    size_t at = 0;
    for (; at + LANES * 8 <= len; at += LANES * 8) {
        uint64_t words[LANES];
        memcpy(words, data + at, sizeof words);
        for (int lane = 0; lane < LANES; lane++) {
            sum->plain[lane] += words[lane];
            sum->weighted[lane] += sum->plain[lane];
        }
    }
    for (; at < len; at++) {
        sum->plain[at % LANES] += data[at] + 1;
        sum->weighted[at % LANES] += sum->plain[at % LANES];
    }
}

static uint64_t sum_end(const struct sum *sum)
{
    uint64_t hash = 0;
    for (int lane = 0; lane < LANES; lane++)
        hash = mix(mix(hash, sum->plain[lane]), sum->weighted[lane]);
    return hash;
}

static uint64_t hash_name(uint64_t hash, const char *name)
{
    while (*name)
        hash = mix(hash, (unsigned char)*name++);
    return hash;
}

static uint64_t read_file(int dir, const char *name)
{
    struct sum sum = {0};
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        err(1, "open %s", name);
    for (ssize_t got; (got = read(fd, buffer, CHUNK)) != 0;) {
        if (got < 0)
            err(1, "read %s", name);
        sum_chunk(&sum, buffer, got);
        bytes += got;
    }
    close(fd);
    return sum_end(&sum);
}

/* `parent` is the hash of the path so far, so that a file in the wrong directory shows. */
static void walk(int fd, uint64_t parent, int with_content)
{
    DIR *dir = fdopendir(fd);
    if (!dir)
        err(1, "opendir");
    for (struct dirent *entry; (entry = readdir(dir));) {
        const char *name = entry->d_name;
        if (!strcmp(name, ".") || !strcmp(name, ".."))
            continue;
        uint64_t path = hash_name(mix(parent, '/'), name);
        int is_dir = entry->d_type == DT_DIR, is_file = entry->d_type == DT_REG;
        if (!with_content || entry->d_type == DT_UNKNOWN) {
            struct stat info;
            if (fstatat(fd, name, &info, AT_SYMLINK_NOFOLLOW))
                err(1, "stat %s", name);
            is_dir = S_ISDIR(info.st_mode), is_file = S_ISREG(info.st_mode);
            if (!with_content) {
                uint64_t hash = mix(mix(mix(path, info.st_mode), info.st_uid), info.st_gid);
                /* Systems differ in what a directory's size and link count mean. */
                if (!is_dir)
                    hash = mix(mix(hash, info.st_size), info.st_nlink);
                checksum += hash;
                items++;
            }
        }
        if (with_content && is_file) {
            checksum += mix(path, read_file(fd, name));
            items++;
        }
        if (is_dir) {
            int below = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (below < 0)
                err(1, "open %s", name);
            walk(below, path, with_content);
        }
    }
    closedir(dir);
}

static uint64_t read_page(int dir, const char *path, off_t offset)
{
    struct sum sum = {0};
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        err(1, "open %s", path);
    ssize_t got = pread(fd, buffer, PAGE, offset);
    if (got < 0)
        err(1, "read %s", path);
    close(fd);
    sum_chunk(&sum, buffer, got);
    bytes += got;
    return sum_end(&sum);
}

static uint64_t touch_file(int dir, const char *path)
{
    struct stat info;
    uint64_t hash = 0;
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info))
        err(1, "open %s", path);
    const volatile unsigned char *map = mmap(NULL, info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        err(1, "mmap %s", path);
    for (off_t at = 0; at < info.st_size; at += PAGE) {
        hash = mix(hash, map[at]);
        bytes++;
    }
    munmap((void *)map, info.st_size);
    close(fd);
    return hash;
}

static void each_of(enum what what, int dir, FILE *list)
{
    long long offset;
    char path[PAGE];
    for (uint64_t line = 0; fscanf(list, "%lld %4095[^\n]\n", &offset, path) == 2; line++) {
        uint64_t hash = what == FILES    ? read_file(dir, path)
                        : what == RANDOM ? read_page(dir, path, offset)
                                         : touch_file(dir, path);
        checksum = mix(mix(checksum, line), hash);
        items++;
    }
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    enum what what = WALK;
    while (argc > 2 && what < WHATS && strcmp(argv[1], WHAT[what]))
        what++;
    int needs_list = what >= FILES;
    if (argc != 3 + needs_list || what == WHATS)
        errx(2, "usage: workload walk|read DIR, workload files|random|touch DIR LIST");
    FILE *list = needs_list ? fopen(argv[3], "re") : NULL;
    if (needs_list && !list)
        err(1, "open %s", argv[3]);

    double start = now();
    int dir = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        err(1, "open %s", argv[2]);
    if (needs_list)
        each_of(what, dir, list);
    else
        walk(dir, 0, what == READ);
    printf("%.6f %llu %llu %016llx\n", now() - start, (unsigned long long)items,
           (unsigned long long)bytes, (unsigned long long)checksum);
}
