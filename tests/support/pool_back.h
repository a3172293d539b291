/*
 * pool_back.h - backward calls of the retrieval head, for its tests.
 */
#pragma once

#include "support/pool.h"

/* Tensors of one backward call. */
typedef struct pool_back {
    csp_sparse rows;
    csp_tensor dw, dh, de;
    double *de_was;
    int64_t entries; /* said to be there, 0: not known */
    csp_pool_way way;
} pool_back;

/* Whether r->be goes that way from now on: a CPU has its own only, a device may lack cuSPARSE. */
bool pool_takes(rig *r, csp_pool_way way);

/* Random dw for all entries of rows; dh is an output, de is added to. */
pool_back pool_make_back(rig *r, const pool_setup *s, csp_sparse rows);

/* trained: with de; where the maximum is taken h is given only then. */
csp_status pool_backward(csp_backend *be, const pool_setup *s, pool_back *g, bool trained);

/*
 * Judges dh and de by the reference; each element of dh adds at most h_terms numbers, of de
 * e_terms.
 */
void pool_check_back(rig *r, const pool_setup *s, const pool_back *g, int64_t h_terms,
                     int64_t e_terms);

/* (N) u8, 1 for every row that wins an entry and some others. */
csp_tensor pool_keep_of(rig *r, const csp_sparse *w, const csp_tensor *seq_start, int64_t N);
