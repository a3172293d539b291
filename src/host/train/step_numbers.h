/*
 * step_numbers.h - the few numbers of a step that the host reads: losses, counts, norms. They lie
 * together in device memory, and again in the same places in memory of the host, to which they are
 * copied at once; the host then waits once for all that belongs to a step.
 *
 *     csp_step_numbers_open(be, bytes, &numbers)             once
 *     csp_arena_tensor(&numbers.device, ...)                 tensors that ops write
 *     csp_step_numbers_fetch(&numbers)                       when all of a step is enqueued
 *     csp_backend_sync(be)
 *     value = csp_step_numbers_at(&numbers, &tensor)
 */
#pragma once

#include "ops/backend.h"

typedef struct csp_step_numbers {
    csp_backend *be; /* not owned                         */
    csp_arena device;
    csp_arena host; /* of the same size, page-locked      */
} csp_step_numbers;

/* Errors: CSP_ERR_MEMORY, CSP_ERR_DEVICE. */
CSP_CHECKED csp_status csp_step_numbers_open(csp_backend *be, size_t bytes, csp_step_numbers *out);
/* Takes numbers that are { 0 }, too. */
void csp_step_numbers_close(csp_step_numbers *numbers);

/* Enqueues the copy of all tensors that have been placed. */
CSP_CHECKED csp_status csp_step_numbers_fetch(const csp_step_numbers *numbers);

/* What a tensor held at the last fetch; to be read after csp_backend_sync. */
const void *csp_step_numbers_at(const csp_step_numbers *numbers, const csp_tensor *t);

/* The same, to be changed: on the host alone, until the next fetch. */
void *csp_step_numbers_edit(const csp_step_numbers *numbers, const csp_tensor *t);
