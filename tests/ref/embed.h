/* embed.h - f64 reference of ops/embed.h. */
#pragma once

#include <stdint.h>

/* x[n,:] = table[token[n],:] */
void ref_embed_fwd(const double *table, const int32_t *token, int64_t N, int64_t D, double *x);

/* dtable[token[n],:] += dx[n,:]; mag gets the sizes added. */
void ref_embed_bwd(const int32_t *token, const double *dx, int64_t N, int64_t D, double *dtable,
                   double *mag);
