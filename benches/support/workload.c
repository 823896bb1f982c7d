/*
 * The timed half of benches/compare: uses a tree in one of several ways and prints
 *
 *     SECONDS ITEMS BYTES CHECKSUM
 *
 * The clock starts after the program itself is in memory. The checksum depends on every name, attribute
 * and byte seen and on their positions, but not on the order of directories, which systems may choose;
 * it costs about as much as touching the bytes once, so that it does not hide what is measured.
 *
 *     workload stat DIR              lstat of DIR alone: does it answer?
 *     workload walk DIR              lstat of everything
 *     workload read DIR READERS      content of every regular file, in the order directories list them
 *     workload files DIR LIST        content of the files LIST names, front to back
 *     workload ranges DIR LIST       one open + pread + close per line of LIST
 *     workload touch DIR LIST        one byte of every page of the files LIST names, through mmap
 *     workload exec DIR LIST         starts the programs LIST names, in DIR as their root; see start()
 *     workload run DIR COMMAND...    a command that runs in DIR, and what it prints, line by line
 *     workload chroot DIR COMMAND... the same with DIR as its root
 *
 * LIST holds lines `OFFSET LENGTH PATH`, the path relative to DIR; only `ranges` looks at the numbers.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A program that only loads needs milliseconds; one that hangs is ended after this many seconds. */
enum { LANES = 8, PAGE = 4096, CHUNK = 128 * 1024, READERS_MAX = 64, START_LIMIT = 20 };

/* What one thread saw; the answer is the sum over all threads. */
static _Thread_local struct seen {
    uint64_t items, bytes, checksum;
} seen;
static _Thread_local _Alignas(64) unsigned char buffer[CHUNK];

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
        seen.bytes += got;
    }
    close(fd);
    return sum_end(&sum);
}

static uint64_t read_range(int dir, const char *path, off_t offset, size_t len)
{
    struct sum sum = {0};
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        err(1, "open %s", path);
    while (len > 0) {
        ssize_t got = pread(fd, buffer, len < CHUNK ? len : CHUNK, offset);
        if (got < 0)
            err(1, "read %s", path);
        if (got == 0)
            break;
        sum_chunk(&sum, buffer, got);
        seen.bytes += got;
        offset += got;
        len -= got;
    }
    close(fd);
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
        seen.bytes++;
    }
    munmap((void *)map, info.st_size);
    close(fd);
    return hash;
}

static uint64_t stat_entry(int dir, const char *name, uint64_t path, mode_t *mode)
{
    struct stat info;
    if (fstatat(dir, name, &info, AT_SYMLINK_NOFOLLOW))
        err(1, "stat %s", name);
    *mode = info.st_mode;
    uint64_t hash = mix(mix(mix(path, info.st_mode), info.st_uid), info.st_gid);
    /* Systems differ in what a directory's size and link count mean. */
    return S_ISDIR(info.st_mode) ? hash : mix(mix(hash, info.st_size), info.st_nlink);
}

/* The next name and, without asking more than needed, its type; NULL at the end. */
static const char *next_entry(DIR *dir, mode_t *type)
{
    struct dirent *entry;
    do
        entry = readdir(dir);
    while (entry && (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")));
    if (!entry)
        return NULL;
    *type = DTTOIF(entry->d_type);
    if (entry->d_type == DT_UNKNOWN)
        stat_entry(dirfd(dir), entry->d_name, 0, type);
    return entry->d_name;
}

static DIR *open_directory(int above, const char *name)
{
    int fd = openat(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir)
        err(1, "open %s", name);
    return dir;
}

/* `parent` is the hash of the path so far, so that a file in the wrong directory shows. */
static void walk(int above, const char *dir_name, uint64_t parent, int with_content)
{
    mode_t type;
    DIR *dir = open_directory(above, dir_name);
    for (const char *name; (name = next_entry(dir, &type));) {
        uint64_t path = hash_name(mix(parent, '/'), name);
        if (!with_content) {
            seen.checksum += stat_entry(dirfd(dir), name, path, &type);
            seen.items++;
        } else if (S_ISREG(type)) {
            seen.checksum += mix(path, read_file(dirfd(dir), name));
            seen.items++;
        }
        if (S_ISDIR(type))
            walk(dirfd(dir), name, path, with_content);
    }
    closedir(dir);
}

/* Several readers take directories and files, named from the top, off one stack, newest first. */
static struct task {
    struct task *below;
    int is_dir;
    char path[]; /* with a slash in front, as walk() hashes it */
} *stack;
static size_t unfinished;
static int top;
static struct seen whole;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void push(const char *above, const char *name, int is_dir)
{
    size_t len = strlen(above) + strlen(name) + 2;
    struct task *task = malloc(sizeof *task + len);
    if (!task)
        err(1, "malloc");
    task->is_dir = is_dir;
    snprintf(task->path, len, "%s/%s", above, name);
    pthread_mutex_lock(&lock);
    task->below = stack;
    stack = task;
    unfinished++;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static void do_task(const struct task *task)
{
    if (!task->is_dir) {
        seen.checksum += mix(hash_name(0, task->path), read_file(top, task->path + 1));
        seen.items++;
        return;
    }
    mode_t type;
    DIR *dir = open_directory(top, task->path[0] ? task->path + 1 : ".");
    for (const char *name; (name = next_entry(dir, &type));)
        if (S_ISDIR(type) || S_ISREG(type))
            push(task->path, name, S_ISDIR(type));
    closedir(dir);
}

static void *reader(void *unused)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!stack && unfinished)
            pthread_cond_wait(&changed, &lock);
        if (!unfinished)
            break;
        struct task *task = stack;
        stack = task->below;
        pthread_mutex_unlock(&lock);
        do_task(task);
        free(task);
        pthread_mutex_lock(&lock);
        if (--unfinished == 0)
            pthread_cond_broadcast(&changed);
    }
    whole.items += seen.items;
    whole.bytes += seen.bytes;
    whole.checksum += seen.checksum;
    pthread_mutex_unlock(&lock);
    return unused;
}

static void read_by_many(int dir, int readers)
{
    pthread_t threads[READERS_MAX];
    top = dir;
    stack = calloc(1, sizeof *stack + 1);
    if (!stack)
        err(1, "calloc");
    stack->is_dir = unfinished = 1;
    for (int nth = 0; nth < readers; nth++)
        if (pthread_create(&threads[nth], NULL, reader, NULL))
            errx(1, "cannot start a thread");
    for (int nth = 0; nth < readers; nth++)
        pthread_join(threads[nth], NULL);
    seen = whole;
}

/*
 * What a program prints, as a set of lines, for their order may come from directories. A line counts up
 * to ` (0x`, behind which the dynamic loader shows addresses.
 */
static uint64_t hash_output(int fd)
{
    FILE *out = fdopen(fd, "r");
    char *line = NULL, *address;
    size_t room = 0;
    uint64_t sum = 0;
    if (!out)
        err(1, "fdopen");
    for (ssize_t len; (len = getline(&line, &room, out)) > 0; seen.bytes += strlen(line)) {
        if ((address = strstr(line, " (0x")))
            *address = 0;
        sum += hash_name(1, line);
        seen.items++;
    }
    free(line);
    fclose(out);
    return sum;
}

/* Runs a program to its end; tells its wait status and the hash of its output. */
static uint64_t start(char *const argv[], char *const env[], int *status)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        err(1, "pipe");
    pid_t child = fork();
    if (child < 0)
        err(1, "fork");
    if (child == 0) {
        /* Nobody outlives this program, whatever ends it. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(ends[1], STDOUT_FILENO);
        /* Not one of the exec functions that hand what they do not know to a shell. */
        execve(argv[0], argv, env);
        err(127, "exec %s", argv[0]);
    }
    close(ends[1]);
    uint64_t hash = hash_output(ends[0]);
    if (waitpid(child, status, 0) != child)
        err(1, "wait");
    return hash;
}

/*
 * The storm of programs. They are started for real (the kernel opens, maps and checks them, and has their
 * loader run), but in the mode behind ldd(1): the loader finds and maps all libraries, relocates everything
 * (`ldd -r`) and ends before a single instruction of the program itself. So nothing can hang, ask or be changed,
 * whatever the program is. The list names only programs with such a loader, none with set-id bits;
 * no_new_privs and the alarm are for whatever was overlooked.
 */
static uint64_t start_program(char *path)
{
    char *const argv[] = {path, NULL};
    char *const env[] = {"LD_TRACE_LOADED_OBJECTS=1", "LD_WARN=yes", "LD_BIND_NOW=1", NULL};
    int status;
    alarm(START_LIMIT);
    uint64_t hash = start(argv, env, &status);
    alarm(0);
    return mix(hash, status);
}

static void become_root_of(const char *dir)
{
    if (chroot(dir) || chdir("/"))
        err(1, "chroot %s", dir);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        err(1, "no_new_privs");
}

static void run_command(char *const argv[])
{
    int status;
    seen.checksum = start(argv, environ, &status);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        errx(1, "%s: wait status %d", argv[0], status);
}

static void each_of(const char *verb, int dir, FILE *list)
{
    long long offset, len;
    char path[PAGE];
    for (uint64_t line = 0; fscanf(list, "%lld %lld %4095[^\n]\n", &offset, &len, path) == 3; line++) {
        uint64_t hash = !strcmp(verb, "files")    ? read_file(dir, path)
                        : !strcmp(verb, "ranges") ? read_range(dir, path, offset, len)
                        : !strcmp(verb, "touch")  ? touch_file(dir, path)
                                                  : start_program(path);
        seen.checksum = mix(mix(seen.checksum, line), hash);
        if (strcmp(verb, "exec"))
            seen.items++;
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
    const char *verb = argc > 2 ? argv[1] : "", *dir_name = argv[2];
    int is_alone = !strcmp(verb, "stat") || !strcmp(verb, "walk"), is_read = !strcmp(verb, "read");
    int is_command = !strcmp(verb, "run") || !strcmp(verb, "chroot"), is_exec = !strcmp(verb, "exec");
    int has_list = is_exec || !strcmp(verb, "files") || !strcmp(verb, "ranges") || !strcmp(verb, "touch");
    if (!(is_alone && argc == 3) && !((is_read || has_list) && argc == 4) && !(is_command && argc > 3))
        errx(2, "usage: see the comment at the top of workload.c");
    int readers = is_read ? atoi(argv[3]) : 1;
    if (readers < 1 || readers > READERS_MAX)
        errx(2, "between 1 and %d readers", READERS_MAX);
    FILE *list = has_list ? fopen(argv[3], "re") : NULL;
    if (has_list && !list)
        err(1, "open %s", argv[3]);

    double begin = now();
    int dir = open(dir_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        err(1, "open %s", dir_name);
    if (is_exec || !strcmp(verb, "chroot"))
        become_root_of(dir_name);
    else if (is_command && fchdir(dir))
        err(1, "chdir %s", dir_name);

    if (!strcmp(verb, "stat")) {
        mode_t mode;
        stat_entry(dir, ".", 0, &mode);
    } else if (is_command)
        run_command(argv + 3);
    else if (has_list)
        each_of(verb, dir, list);
    else if (readers > 1)
        read_by_many(dir, readers);
    else
        walk(dir, ".", 0, is_read);
    printf("%.6f %llu %llu %016llx\n", now() - begin, (unsigned long long)seen.items,
           (unsigned long long)seen.bytes, (unsigned long long)seen.checksum);
}
