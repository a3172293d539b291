/*
 * exclude.h - the terms that a text contract leaves out of every vector, as the head takes them.
 */
#pragma once

#include "io/contract.h"
#include "ops/backend.h"

/*
 * (V) u8 on the device, 1 for an excluded term; none where the contract excludes nothing. With an
 * arena that has no memory it only measures. Errors: CSP_ERR_MEMORY, those of csp_backend_upload.
 */
CSP_CHECKED csp_status csp_exclude_tensor(csp_backend *be, const csp_contract *contract, int64_t V,
                                          csp_arena *keep, csp_tensor *out);
