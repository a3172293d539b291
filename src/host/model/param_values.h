/*
 * param_values.h - a parameter's value as float32 on the host, whatever type it is stored in.
 *
 * A row with a master is what its master says: value is that number rounded to nearest even. Both
 * are always written together, so a checkpoint of masters gives back the same bits. Of a master
 * that ranks share out a rank has its part, and reads the value. A row in e4m3
 * is its rounded numbers times their scales, and the same values always give the same of both.
 */
#pragma once

#include "model/params.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Values stored as f32, bf16 or f16, which f32 holds all exactly; apart from one another. */
void csp_values_to_f32(csp_dtype dtype, const void *stored, int64_t n, float *values);

/* Writes elements first .. first+n-1 of a tensor, which stored holds as they are. */
CSP_CHECKED csp_status csp_tensor_upload_stored(csp_backend *be, const csp_tensor *t, int64_t first,
                                                int64_t n, const void *stored);

/* Writes elements first .. first+n-1 of a tensor in f32 or bf16, rounded to nearest even. */
CSP_CHECKED csp_status csp_tensor_upload(csp_backend *be, const csp_tensor *t, int64_t first,
                                         int64_t n, const float *values);

/*
 * Writes elements first .. first+n-1 of a row. Of an e4m3 row they must be whole rows of the matrix
 * (asserted), which the device quantises.
 */
CSP_CHECKED csp_status csp_param_upload(csp_backend *be, csp_param *row, int64_t first, int64_t n,
                                        const float *values);

/*
 * Of the values of elements first .. first+n-1 of a row, writes those that are this rank's into t:
 * its m, v or master.
 */
CSP_CHECKED csp_status csp_state_upload(csp_backend *be, const csp_param *row, const csp_tensor *t,
                                        int64_t first, int64_t n, const float *values);

/*
 * All elements of a row, of its master where that is not shared out among ranks: the same on all of
 * them. Waits for be.
 */
CSP_CHECKED csp_status csp_param_download(csp_backend *be, const csp_param *row, float *values);

/* Sets all elements to 0. */
CSP_CHECKED csp_status csp_param_zero(csp_backend *be, csp_param *row);

#ifdef __cplusplus
}
#endif
