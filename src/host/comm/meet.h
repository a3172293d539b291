/*
 * meet.h - the first thing ranks do over a new transport. For the files of comm/ only.
 */
#pragma once

#include "comm/state.h"

/*
 * Exchanges cards: versions must be the same, and which ranks share a machine becomes known. Then
 * opens the control channel.
 *
 * Errors: CSP_ERR_CONFIG (versions), CSP_ERR_COMM.
 */
CSP_CHECKED csp_status csp_meet(csp_comm *comm);
