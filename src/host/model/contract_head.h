/*
 * contract_head.h - the retrieval head of a model as its text contract wants it: logit scale,
 * pooling and excluded terms.
 */
#pragma once

#include "io/contract.h"
#include "model/transformer.h"

typedef struct csp_contract_head {
    csp_head head;
    csp_backend *be;  /* not owned                                        */
    csp_arena memory; /* of head.exclude, (V) u8; none without such terms */
} csp_contract_head;

/*
 * model and be must outlive it. out must be zero; it may be closed after a failure.
 *
 * Errors: CSP_ERR_DATA where an excluded id is no term; CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_contract_head_open(csp_backend *be, const csp_model *model,
                                              const csp_contract *contract, csp_contract_head *out);

/* A zeroed struct is allowed. */
void csp_contract_head_close(csp_contract_head *head);
