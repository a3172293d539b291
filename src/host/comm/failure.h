/*
 * failure.h - the one failure that all ranks agree on: who, with which exit code, and why. For the
 * files of comm/ only.
 *
 * reason, everywhere: what follows "rank 3 (process 812 on node7) ", such as "failed with exit
 * code 4: the loss is not finite".
 */
#pragma once

#include "comm/state.h"

/*
 * Remembers the first failure, of whatever thread; later ones change nothing. Ends what the worker
 * waits for.
 */
void csp_failure_set(csp_comm *comm, int rank, int exit_code, const char *reason);

/*
 * Makes an exchange that did not end well the failure of all ranks, and says it. What the rank
 * itself or another has reported goes before what this one has seen.
 *
 * Errors: CSP_ERR_COMM, always.
 */
CSP_CHECKED csp_status csp_failure_raise(csp_comm *comm, const char *what, csp_exchange_end end,
                                         const csp_exchange *x);

/* Whether a failure is known, now or within some seconds. */
bool csp_failure_await(csp_comm *comm, double seconds);

/* Says the failure that is known. CSP_ERR_COMM, always. */
CSP_CHECKED csp_status csp_failure_say(csp_comm *comm, const char *what);
