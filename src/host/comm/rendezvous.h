/*
 * rendezvous.h - how ranks that know only where rank 0 listens become a mesh of connections.
 *
 *     every other rank   connects to rank 0 and says its rank and where it listens itself
 *     rank 0             once all have come, answers with what all have said and a token of the job
 *     every rank         connects to the ranks 1 .. its own - 1 and accepts the others
 *
 * The connection to rank 0 stays as the one of the pair. Nothing is secret: whoever reaches the
 * port can come in place of a rank, as with other programs of this kind.
 */
#pragma once

#include "comm/launch.h"

/*
 *   fds   out   (size) a connection to each other rank, -1 for this one
 *
 * Errors: CSP_ERR_COMM, CSP_ERR_CONFIG, CSP_ERR_MEMORY. No connection is left open then.
 */
CSP_CHECKED csp_status csp_rendezvous(const csp_launch *launch, double timeout_s, int *fds);
