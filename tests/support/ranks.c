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

/*
 * A port that nobody uses now: below those that the system gives to connections, one of which could
 * take it before rank 0 does. 0: there is none.
 */
static int free_port(void)
{
    static int calls = 0;

    for (int tries = 0; tries < 100; tries++) {
        const int port = 20000 + (int)((getpid() * 37L + calls++) % 12000);
        const struct sockaddr_in name = { .sin_family = AF_INET,
                                          .sin_port = htons((uint16_t)port),
                                          .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        const int fd = socket(AF_INET, SOCK_STREAM, 0);
        const bool is_free = fd >= 0 && bind(fd, (const struct sockaddr *)&name, sizeof(name)) == 0;

        if (fd >= 0) {
            close(fd);
        }
        if (is_free) {
            return port;
        }
    }
    return 0;
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

bool ranks_run(ranks_body body, int argument, int size, double limit_s, int *at)
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
            exit(body(argument));
        }
    }
    return wait_all(processes, size, limit_s, at);
}

/* The file in which a rank under mpirun leaves its exit code. */
static void name_result(const char *dir, int rank, char *path, size_t bytes)
{
    (void)snprintf(path, bytes, "%s/rank.%d", dir, rank);
}

/*
 * mpirun kills the other ranks when one has ended early: not before they have left their codes, or
 * have had the time, as there are jobs in which others wait for the end of this one.
 */
static void wait_for_results(const ranks_job *job, const char *dir)
{
    const struct timespec pause = { .tv_nsec = 5 * 1000 * 1000 };
    const double deadline = csp_machine_seconds() + 2.0;
    char path[256];

    for (int r = 0; r < job->size && csp_machine_seconds() < deadline; r++) {
        name_result(dir, r, path, sizeof(path));
        while (access(path, F_OK) != 0 && csp_machine_seconds() < deadline) {
            (void)nanosleep(&pause, NULL);
        }
    }
}

/* This process is a rank of a job that mpirun has started. */
static int be_rank(const ranks_job *job)
{
    const int code = job->body(job->argument);
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *dir = getenv("RANKS_DIR");
    char path[256];
    FILE *file;

    if (rank != NULL && dir != NULL) {
        name_result(dir, atoi(rank), path, sizeof(path));
        file = fopen(path, "w");
        if (file != NULL) {
            fprintf(file, "%d", code);
            fclose(file);
        }
        if (job->expect == NULL) { /* else not all of them come to that */
            wait_for_results(job, dir);
        }
    }
    return code;
}

/* The exit statuses out of the files that ranks left in dir, which goes. */
static void collect_results(const char *dir, int size, int *at)
{
    char path[256];

    for (int r = 0; r < size; r++) {
        FILE *file;
        int code;

        name_result(dir, r, path, sizeof(path));
        file = fopen(path, "r");
        at[r] = file != NULL && fscanf(file, "%d", &code) == 1 ? code << 8 : RANKS_UNKNOWN;
        if (file != NULL) {
            fclose(file);
        }
        (void)remove(path);
    }
    (void)rmdir(dir);
}

/*
 * One job by mpirun, which starts this program again for one rank each. *skipped where there is no
 * mpirun or no plugin.
 */
static bool run_mpi(const char *program, const ranks_job *job, double limit_s, int *at,
                    bool *skipped)
{
    static const char plugin[] = CSPLADE_BINARY_DIR "/libcsplade_mpi.so";
    char size[16], dir[] = "/tmp/csplade-ranks-XXXXXX";
    pid_t process;
    int status = 0;
    bool in_time;

    *skipped = access(plugin, F_OK) != 0;
    if (*skipped || mkdtemp(dir) == NULL) {
        return false;
    }
    (void)snprintf(size, sizeof(size), "%d", job->size);
    fflush(NULL);
    process = fork();
    if (process == 0) {
        setenv("CSPLADE_MPI_PLUGIN", plugin, 1);
        setenv("RANKS_DIR", dir, 1);
        setenv("ASAN_OPTIONS", "detect_leaks=0", 0); // Open MPI gives back little at its end
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
        execlp("mpirun", "mpirun", "--oversubscribe", "--bind-to", "none", "-np", size, program,
               "rank", job->name, (char *)NULL);
        _exit(SKIPPED);
    }
    in_time = wait_all(&process, 1, limit_s, &status);
    *skipped = WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED;
    collect_results(dir, job->size, at);
    return in_time;
}

static bool is_all_good(const ranks_job *job, const int *at)
{
    for (int r = 0; r < job->size; r++) {
        if (at[r] != 0) {
            return false;
        }
    }
    return true;
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
        bool good, skipped = false;

        if ((argc > 2 && strcmp(argv[2], job->name) != 0) || (is_mpi && job->is_tcp_only)) {
            continue;
        }
        if (strcmp(way, "rank") == 0) {
            return be_rank(job);
        }
        good = is_mpi ? run_mpi(argv[0], job, limit_s, at, &skipped)
                      : ranks_run(job->body, job->argument, job->size, limit_s, at);
        if (skipped) {
            printf("skipped: no mpirun, or no plugin\n");
            return SKIPPED;
        }
        good = good && (job->expect != NULL ? job->expect(at, job->size, job->argument)
                                            : is_all_good(job, at));
        printf("%-6s %s, %d ranks over %s, %.2f s\n", good ? "ok" : "FAILED", job->name, job->size,
               way, csp_machine_seconds() - start);
        for (int r = 0; !good && r < job->size; r++) {
            printf("       rank %d: status %#x\n", r, (unsigned)at[r]);
        }
        failed += good ? 0 : 1;
    }
    return failed == 0 ? 0 : 1;
}
