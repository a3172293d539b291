/* ranks.c - processes of a test program as the ranks of a job. */
#include "support/ranks.h"

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/machine.h"

enum { RANKS = 16, SKIPPED = 77 };

/* A port that nobody uses now. */
static int free_port(void)
{
    struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t bytes = sizeof(name);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    int port = 0;

    if (fd >= 0 && bind(fd, (struct sockaddr *)&name, bytes) == 0 &&
        getsockname(fd, (struct sockaddr *)&name, &bytes) == 0) {
        port = ntohs(name.sin_port);
    }
    if (fd >= 0) {
        close(fd);
    }
    return port;
}

static void set_number(const char *name, int value)
{
    char text[16];

    (void)snprintf(text, sizeof(text), "%d", value);
    setenv(name, text, 1);
}

/* Waits for all processes, killing those that are left at the limit. */
static bool wait_all(pid_t *processes, int count, double limit_s, int *at)
{
    const double deadline = csp_machine_seconds() + limit_s;
    const struct timespec pause = { .tv_nsec = 2 * 1000 * 1000 };
    int left = count;
    bool in_time = true;

    while (left > 0) {
        for (int i = 0; i < count; i++) {
            if (processes[i] > 0 && waitpid(processes[i], &at[i], WNOHANG) == processes[i]) {
                processes[i] = 0;
                left--;
            }
        }
        if (left > 0 && in_time && csp_machine_seconds() > deadline) {
            in_time = false;
            for (int i = 0; i < count; i++) {
                if (processes[i] > 0) {
                    fprintf(stderr, "rank %d has not ended within %g s\n", i, limit_s);
                    kill(processes[i], SIGKILL);
                }
            }
        }
        (void)nanosleep(&pause, NULL);
    }
    return in_time;
}

bool ranks_run(ranks_body body, int size, double limit_s, int *at)
{
    pid_t processes[RANKS] = { 0 };
    const int port = free_port();

    fflush(NULL);
    for (int r = 0; r < size; r++) {
        processes[r] = fork();
        if (processes[r] == 0) {
            set_number("RANK", r);
            set_number("WORLD_SIZE", size);
            setenv("MASTER_ADDR", "127.0.0.1", 1);
            set_number("MASTER_PORT", port);
            exit(body());
        }
    }
    return wait_all(processes, size, limit_s, at);
}

/* One job by mpirun, which starts this program again for one rank each. */
static bool run_mpi(const char *program, const ranks_job *job, double limit_s, int *at)
{
    static const char plugin[] = CSPLADE_BINARY_DIR "/libcsplade_mpi.so";
    char size[16];
    pid_t process;

    if (access(plugin, F_OK) != 0) {
        at[0] = SKIPPED << 8;
        return true;
    }
    (void)snprintf(size, sizeof(size), "%d", job->size);
    fflush(NULL);
    process = fork();
    if (process == 0) {
        setenv("CSPLADE_MPI_PLUGIN", plugin, 1);
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
        execlp("mpirun", "mpirun", "--oversubscribe", "-np", size, program, "rank", job->name,
               (char *)NULL);
        _exit(SKIPPED);
    }
    return wait_all(&process, 1, limit_s, at);
}

static bool is_job(const ranks_job *job, int argc, char **argv)
{
    return argc < 3 || strcmp(argv[2], job->name) == 0;
}

int ranks_main(int argc, char **argv, const ranks_job *jobs, int count)
{
    const char *way = argc > 1 ? argv[1] : "tcp";
    const bool is_mpi = strcmp(way, "mpi") == 0;
    int failed = 0;

    for (int i = 0; i < count; i++) {
        const ranks_job *job = &jobs[i];
        const double limit_s = job->limit_s > 0.0 ? job->limit_s : 60.0;
        const double start = csp_machine_seconds();
        int at[RANKS] = { 0 };
        bool good;

        if (!is_job(job, argc, argv)) {
            continue;
        }
        if (strcmp(way, "rank") == 0) {
            return job->body();
        }
        good = is_mpi ? run_mpi(argv[0], job, limit_s, at)
                      : ranks_run(job->body, job->size, limit_s, at);
        if (is_mpi && WIFEXITED(at[0]) && WEXITSTATUS(at[0]) == SKIPPED) {
            printf("skipped: no mpirun, or no plugin\n");
            return SKIPPED;
        }
        if (job->expect != NULL) {
            good = good && job->expect(at, job->size, is_mpi);
        } else {
            for (int r = 0; r < (is_mpi ? 1 : job->size); r++) {
                good = good && at[r] == 0;
            }
        }
        printf("%-6s %s, %d ranks over %s, %.2f s\n", good ? "ok" : "FAILED", job->name, job->size,
               way, csp_machine_seconds() - start);
        for (int r = 0; !good && r < (is_mpi ? 1 : job->size); r++) {
            printf("       status %d: %#x\n", r, (unsigned)at[r]);
        }
        failed += good ? 0 : 1;
    }
    return failed == 0 ? 0 : 1;
}
