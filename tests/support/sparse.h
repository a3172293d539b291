/*
 * sparse.h - sparse rows for op tests: guarded outputs, random inputs, and their dense form.
 */
#pragma once

#include "ops/sparse_pool.h"
#include "support/rig.h"

/* Room for rows rows and capacity entries over V terms, all bytes 0xFF. */
csp_sparse rig_sparse_output(rig *r, int64_t rows, int64_t capacity, int64_t V);

/*
 * Random rows: each term is stored with probability density, weight uniform in 0.1 .. 2.1; the
 * argmax of an entry is below T (0: no argmax). The first row is empty where there are several.
 * The capacity is a little more than the entries, the surplus is never to be read.
 */
csp_sparse rig_sparse_random(rig *r, int64_t rows, int64_t V, double density, int64_t T);

/*
 * Dense forms, (rows,V), 0 where nothing is stored. Fails the test where the rows are not what
 * sparse rows must be: row_ptr from 0 and not descending, terms ascending and in range, weights >
 * 0.
 *
 *   values   (capacity) f32 beside the entries, NULL: their weights
 *   arg      (rows,V), -1 where nothing is stored; NULL: not wanted
 */
double *rig_sparse_dense(rig *r, const csp_sparse *w, int64_t rows, const csp_tensor *values);
int32_t *rig_sparse_argmax(rig *r, const csp_sparse *w, int64_t rows);

/* Entries of the first rows rows. */
int64_t rig_sparse_entries(rig *r, const csp_sparse *w, int64_t rows);
