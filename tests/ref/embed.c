/* embed.c - one loop nest per equation. */
#include "ref/embed.h"

#include <math.h>

void ref_embed_fwd(const double *table, const int32_t *token, int64_t N, int64_t D, double *x)
{
    for (int64_t n = 0; n < N; n++) {
        for (int64_t d = 0; d < D; d++) {
            x[n * D + d] = table[token[n] * D + d];
        }
    }
}

void ref_embed_bwd(const int32_t *token, const double *dx, int64_t N, int64_t D, double *dtable,
                   double *mag)
{
    for (int64_t n = 0; n < N; n++) {
        for (int64_t d = 0; d < D; d++) {
            dtable[token[n] * D + d] += dx[n * D + d];
            mag[token[n] * D + d] += fabs(dx[n * D + d]);
        }
    }
}
