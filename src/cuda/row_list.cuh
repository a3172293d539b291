/*
 * row_list.cuh - copies of listed rows of a matrix, of any element.
 */
#pragma once

#include "device.h"

/*
 * Gathers: row i of to := row list[i] of from, i < n. Scatters: row list[i] of to := row i of from.
 *
 *   bytes  in  of a row, a multiple of 2
 */
CSP_CHECKED csp_status cuda_gather_rows(csp_backend *be, const void *from, const int32_t *list,
                                        void *to, int64_t n, int64_t bytes);
CSP_CHECKED csp_status cuda_scatter_rows(csp_backend *be, const void *from, const int32_t *list,
                                         void *to, int64_t n, int64_t bytes);
