/* keepalive.c - rounds of a maximum over the ranks, until the one in which no rank works. */
#include "train/keepalive.h"

#include "core/machine.h"

static csp_status begin_round(csp_keepalive *alive, bool busy)
{
    alive->busy = busy;
    alive->told_s = csp_machine_seconds();
    CSP_TRY(csp_comm_reduce_start(alive->ranks->comm, &alive->busy, CSP_I32, 1, CSP_COMM_MAX,
                                  alive->what, &alive->round.ticket));
    alive->round.under_way = true;
    return CSP_OK;
}

static csp_status end_round(csp_keepalive *alive)
{
    if (!alive->round.under_way) {
        return CSP_OK;
    }
    alive->round.under_way = false;
    return csp_comm_wait(alive->ranks->comm, alive->round.ticket);
}

void csp_keepalive_begin(csp_keepalive *alive, const csp_ranks *ranks, const char *what)
{
    *alive = (csp_keepalive) { .ranks = csp_ranks_size(ranks) > 1 ? ranks : NULL,
                               .what = what,
                               .told_s = csp_machine_seconds() };
}

csp_status csp_keepalive_tick(csp_keepalive *alive)
{
    if (alive->ranks == NULL ||
        csp_machine_seconds() - alive->told_s < csp_comm_sign_s(alive->ranks->comm) ||
        (alive->round.under_way && !csp_comm_is_done(alive->ranks->comm, alive->round.ticket))) {
        return CSP_OK;
    }
    CSP_TRY(end_round(alive));
    return begin_round(alive, true);
}

csp_status csp_keepalive_end(csp_keepalive *alive)
{
    if (alive->ranks == NULL) {
        return CSP_OK;
    }
    CSP_TRY(end_round(alive));
    do {
        CSP_TRY(begin_round(alive, false));
        CSP_TRY(end_round(alive));
    } while (alive->busy != 0);
    return CSP_OK;
}

void csp_keepalive_leave(csp_keepalive *alive, csp_status status)
{
    csp_ranks_abort(alive->ranks, status);
}
