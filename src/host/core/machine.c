/* machine.c - memory by /proc/meminfo and the control group, the clock, the program's folder. */
#include "core/machine.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The whole number a file begins with; -1 where there is none ("max", no such file). */
static int64_t number_in(const char *path)
{
    FILE *file = fopen(path, "r");
    long long value = -1;

    if (file != NULL) {
        if (fscanf(file, "%lld", &value) != 1) {
            value = -1;
        }
        fclose(file);
    }
    return value;
}

/* The number after key in a file of "key number" lines; -1 where there is none. */
static int64_t number_of(const char *path, const char *key)
{
    FILE *file = fopen(path, "r");
    char name[64];
    long long value = 0, found = -1;

    if (file == NULL) {
        return -1;
    }
    while (found < 0 && fscanf(file, "%63s %lld%*[^\n]", name, &value) == 2) {
        if (strcmp(name, key) == 0) {
            found = value;
        }
    }
    fclose(file);
    return found;
}

/* What a control group leaves; file pages it can drop count as free. */
static int64_t group_leaves(const char *limit, const char *used, const char *stat,
                            const char *cache)
{
    const int64_t most = number_in(limit), taken = number_in(used);
    const int64_t droppable = number_of(stat, cache);

    if (most < 0 || taken < 0) {
        return INT64_MAX;
    }
    return most - taken + (droppable > 0 ? droppable : 0);
}

int64_t csp_machine_available_bytes(void)
{
    const int64_t kib = number_of("/proc/meminfo", "MemAvailable:");
    const int64_t v2 = group_leaves("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current",
                                    "/sys/fs/cgroup/memory.stat", "inactive_file");
    const int64_t v1 = group_leaves("/sys/fs/cgroup/memory/memory.limit_in_bytes",
                                    "/sys/fs/cgroup/memory/memory.usage_in_bytes",
                                    "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file");
    int64_t least = kib >= 0 ? kib * 1024 : INT64_MAX;

    least = v2 < least ? v2 : least;
    least = v1 < least ? v1 : least;
    return least > 0 ? least : 0;
}

int csp_machine_cores(void)
{
    cpu_set_t set;
    int count;

    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) != 0) {
        return 1;
    }
    count = CPU_COUNT(&set);
    return count > 0 ? count : 1;
}

int64_t csp_machine_core_key(void)
{
    uint64_t key = 0xCBF29CE484222325u; /* FNV-1a */
    cpu_set_t set;

    CPU_ZERO(&set);
    (void)sched_getaffinity(0, sizeof(set), &set);
    for (int core = 0; core < CPU_SETSIZE; core++) {
        key = (key ^ (CPU_ISSET(core, &set) ? (uint64_t)core + 1 : 0)) * 0x100000001B3u;
    }
    return (int64_t)key;
}

double csp_machine_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double csp_patience_turn(csp_patience *p, double limit_s)
{
    const double now = csp_machine_seconds(), most = limit_s > 6.0 ? limit_s / 4.0 : 1.5;
    const double turn = p->begun ? now - p->turn_s : 0.0, counts = turn < most ? turn : most;

    p->begun = true;
    p->turn_s = now;
    p->waited_s += counts;
    p->lost_s += turn - counts;
    return p->waited_s;
}

/*
 * The high-water mark of this program's own memory. getrusage would not do: its peak lives on
 * through exec, so that a small program started by a large one would report the large one's.
 */
double csp_machine_peak_mb(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long long kib = 0;

    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "VmHWM: %lld kB", &kib) == 1) {
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return (double)kib / 1024.0;
}

bool csp_machine_beside_program(const char *tail, char *path, size_t bytes)
{
    char program[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);
    int written;

    if (length <= 0) {
        return false;
    }
    program[length] = '\0';
    *strrchr(program, '/') = '\0';
    written = snprintf(path, bytes, "%s/%s", program, tail);
    return written > 0 && (size_t)written < bytes && access(path, F_OK) == 0;
}
