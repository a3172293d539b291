/*
 * control.h - the channel by which ranks learn that one has failed: a connection of every rank to
 * rank 0, beside whatever carries the collectives, and a thread that listens to it whatever the
 * others do. For the files of comm/ only.
 *
 *     a rank that fails tells rank 0, which tells all, it included: the first failure is that of
 *     all a connection that ends without a goodbye is a rank that was killed or has crashed
 *     every rank says regularly that it is there; one that is silent for timeout_s has failed
 *     with that it says to how many collectives elsewhere it has come: a rank that has waited in
 *     one for too long asks rank 0, which names who of its group has come to the fewest
 *     what a rank posts (csp_comm_post) goes to rank 0, also after a failure
 *
 * After a failure the thread ends the process, if options.grace_s says so and nobody else does.
 */
#pragma once

#include "comm/state.h"

/*
 * Makes the channel. All ranks call it, over a transport that works.
 *
 * Errors: CSP_ERR_COMM, CSP_ERR_IO, CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_control_start(csp_comm *comm);

/*
 * Makes a failure that of all ranks, unless another has been that already; returns when this rank
 * knows which it is (csp_failure_set), and at the latest after two seconds.
 */
void csp_control_tell(csp_comm *comm, int rank, int exit_code, const char *reason);

/*
 * This rank has waited for timeout_s in the collective `what`, which runs elsewhere, of all ranks
 * or of a group: rank 0 finds out who of these is late, and makes that the failure of all. Returns
 * as csp_control_tell does.
 */
void csp_control_tell_late(const csp_comm *of, const char *what);

/* Sends a post of another rank than 0. Its last two are kept until the thread has sent them. */
void csp_control_post(csp_comm *comm, int64_t number, const char *text);

/*
 * Ends the thread and closes the channel. orderly: all ranks have come to their end, and say
 * goodbye. Nothing where there is no channel.
 */
void csp_control_end(csp_comm *comm, bool orderly);
