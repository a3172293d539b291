/* top_k.h - reference of ops/top_k.h, on dense rows: 0 is a term that is not stored. */
#pragma once

#include <stdint.h>

/* kept[b,v] = w[b,v] if fewer than k entries of row b come before it, else 0; both (rows,V). */
void ref_top_k(const double *w, int64_t rows, int64_t V, int64_t k, double *kept);
