/*
 * safetensors_header.h - private to io/: dtypes of safetensors files, and finding entries by name.
 */
#pragma once

#include "io/safetensors.h"

/* Name in a header of a dtype of ours, "F32". */
const char *csp_safetensors_dtype_name(csp_dtype dtype);

/* Bits of one element of any dtype the format knows, 0 if unknown; *ours as in CSP_DTYPE_COUNT. */
int csp_safetensors_dtype_bits(const char *name, csp_dtype *ours);

/* The numbers of count entries in order of their names. Owner: the caller frees *out. */
CSP_CHECKED csp_status csp_safetensors_sort_names(const char *what,
                                                  const csp_safetensors_entry *entries,
                                                  int64_t count, int64_t **out);

/* The entry of that name, NULL if absent. by_name comes from csp_safetensors_sort_names. */
const csp_safetensors_entry *csp_safetensors_search(const csp_safetensors_entry *entries,
                                                    const int64_t *by_name, int64_t count,
                                                    const char *name);
