/*
 * collective_group.cuh - what waiting (wait.cu) and collectives (collective.cu) ask of the groups
 * of devices that are open (collective_group.cu).
 */
#pragma once

#include "core/thread.h"
#include "device.h"
#include "nccl.cuh"

/* A collective that was begun; of the latest so many of a group is known whether they are done. */
enum { CUDA_COLLECTIVES_KNOWN = 64 };

typedef struct cuda_begun {
    cudaEvent_t done;
    const char *what;
} cuda_begun;

struct cuda_collective {
    csp_collective base; /* first: it is what callers hold     */
    nccl_comm comm;      /* NULL: ended, by close or a failure */
    const cuda_state *state;
    csp_task ending; /* while it is aborted beside others  */
    csp_watch watch;
    cuda_collective *next;
    int64_t begun, passed; /* collectives; known to be done */
    cuda_begun known[CUDA_COLLECTIVES_KNOWN];
    cudaEvent_t *joins; /* before and after each join since csp_collective_waited */
    int64_t join_events, joined;
};

/* How long a wait has seen nothing come. Start from {}. */
typedef struct cuda_patience {
    bool begun;
    double since;
    int64_t passed; /* of all groups together */
} cuda_patience;

/* Whether a group is open that has not been ended. */
bool cuda_collective_any(const cuda_state *state);

/*
 * Whether all is well with the ranks of all groups. If not, the groups are ended.
 *
 * Errors: CSP_ERR_COMM, as the watch says it.
 */
CSP_CHECKED csp_status cuda_collective_check(csp_backend *be, cuda_patience *patience);

/*
 * Waits until a group has taken what it was given: a communicator that does not block makes its
 * connections beside the caller. On failure all groups are ended.
 */
CSP_CHECKED csp_status cuda_collective_settle(csp_backend *be, cuda_collective *c,
                                              const char *what);

/* Ends all groups, for a reason that their watch makes known. CSP_ERR_COMM, always. */
CSP_CHECKED csp_status cuda_collective_fail(csp_backend *be, cuda_collective *c,
                                            csp_watch_reason reason, const char *what,
                                            const char *words);

/* What a call on a group that has been ended returns; CSP_OK where it has not. */
CSP_CHECKED csp_status cuda_collective_alive(csp_backend *be, cuda_collective *c, const char *what);

/* A short pause where a question has been asked in vain for some turns. */
void cuda_pause(int64_t turn);
