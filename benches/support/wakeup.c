/*
 * What does it cost to ask another process and wait for its answer? That is the least an upcall of a FUSE
 * server costs. Prints the microseconds of one question and answer, both on one processor and on two:
 *
 *     SAME OTHER
 *
 * On two processors each sleeps while the other works, so that every message wakes an idle processor up,
 * as the upcalls of a single reader do. OTHER is 0 on a machine with one processor.
 */
#define _GNU_SOURCE
#include <err.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { QUESTIONS = 3000 };

static void stay_on(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        err(1, "sched_setaffinity");
}

static double microseconds(int asks, int answers)
{
    int there[2], back[2];
    char byte = 0;
    struct timespec begin, end;
    if (pipe(there) || pipe(back))
        err(1, "pipe");
    pid_t child = fork();
    if (child < 0)
        err(1, "fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        stay_on(answers);
        for (int nth = 0; nth < QUESTIONS; nth++)
            if (read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1)
                _exit(1);
        _exit(0);
    }
    stay_on(asks);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int nth = 0; nth < QUESTIONS; nth++)
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
            err(1, "no answer");
    clock_gettime(CLOCK_MONOTONIC, &end);
    waitpid(child, NULL, 0);
    return ((end.tv_sec - begin.tv_sec) * 1e6 + (end.tv_nsec - begin.tv_nsec) / 1e3) / QUESTIONS;
}

int main(void)
{
    int cpus[2], found = 0;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set))
        err(1, "sched_getaffinity");
    for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++)
        if (CPU_ISSET(cpu, &set))
            cpus[found++] = cpu;
    printf("%.2f ", microseconds(cpus[0], cpus[0]));
    printf("%.2f\n", found > 1 ? microseconds(cpus[0], cpus[1]) : 0.0);
}
