/*
 * ranks.h - runs a function as the ranks of a job, each in a process of its own: over TCP on the
 * loopback, as torchrun's variables ask for it, or over MPI by mpirun.
 *
 *     int main(int argc, char **argv)
 *     {
 *         return ranks_main(argc, argv, jobs, sizeof(jobs) / sizeof(jobs[0]));
 *     }
 *
 * A body finds its rank by csp_launch_find, as the program does. It returns the exit code of its
 * process; RANK_CHECK makes it 1 and says why.
 *
 *     PROGRAM tcp        all jobs over TCP, one after another
 *     PROGRAM mpi        the same by mpirun; 77 (skipped) where there is none, or no plugin
 *     PROGRAM tcp NAME   one of them
 */
#pragma once

#include <stdbool.h>
#include <stdio.h>

typedef int (*ranks_body)(int argument);

enum { RANKS_UNKNOWN = -1 };

typedef struct ranks_job {
    const char *name;
    ranks_body body;
    int size;
    int argument;
    bool is_tcp_only;
    double limit_s; /* a job that takes longer is killed and has failed; 0: 60 */
    /*
     * What the exit statuses must be, as waitpid gives them; RANKS_UNKNOWN of a rank under MPI that
     * did not come back from its body. NULL: all 0.
     */
    bool (*expect)(const int *at, int size, int argument);
} ranks_job;

/* A statement of a body: reports a condition that does not hold and ends the body. */
#define RANK_CHECK(condition)                                                             \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
            return 1;                                                                     \
        }                                                                                 \
    } while (0)

/* RANK_CHECK of a csp_status that must be CSP_OK. */
#define RANK_TRY(call)                                                                       \
    do {                                                                                     \
        if ((call) != CSP_OK) {                                                              \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, csp_error_text()); \
            return 1;                                                                        \
        }                                                                                    \
    } while (0)

int ranks_main(int argc, char **argv, const ranks_job *jobs, int count);

/*
 * Runs a body in processes of this one, over TCP.
 *
 *   at   out   (size) exit statuses as waitpid gives them
 *
 * Returns false when the limit was reached; the processes have been killed then.
 */
bool ranks_run(ranks_body body, int argument, int size, double limit_s, int *at);
