/* sparse.c - sparse rows between guards, and back to dense. */
#include "support/sparse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/rng.h"

csp_sparse rig_sparse_output(rig *r, int64_t rows, int64_t capacity, int64_t V)
{
    csp_sparse w;

    w.row_ptr = rig_output(r, CSP_I64, 1, (int64_t[]) { rows + 1 });
    w.term = rig_output(r, CSP_I32, 1, &capacity);
    w.weight = rig_output(r, CSP_F32, 1, &capacity);
    w.argmax = rig_output(r, CSP_I32, 1, &capacity);
    w.vocab = V;
    w.active = 0.0;
    return w;
}

csp_sparse rig_sparse_random(rig *r, int64_t rows, int64_t V, double density, int64_t T)
{
    const csp_rng rng = { .seed = r->seed, .draw = CSP_DRAW_TEST, .key = r->drawn++, .step = 0 };
    const int64_t capacity = rows * V + 3;
    int64_t *starts = (int64_t *)(void *)rig_doubles(r, rows + 1);
    int32_t *term = rig_ints(r, capacity), *argmax = rig_ints(r, capacity);
    float *weight = (float *)(void *)rig_ints(r, capacity);
    int64_t n = 0;
    csp_sparse w;

    for (int64_t row = 0; row < rows; row++) {
        starts[row] = n;
        for (int64_t v = 0; v < V; v++) {
            const uint64_t at = (uint64_t)(row * V + v) * 4;

            if ((row > 0 || rows == 1) && (double)csp_rng_uniform(rng, at) < density) {
                term[n] = (int32_t)v;
                weight[n] = 0.1f + 2.0f * csp_rng_uniform(rng, at + 1);
                argmax[n] = T > 0 ? (int32_t)csp_rng_below(rng, at + 2, (uint64_t)T) : -1;
                n++;
            }
        }
    }
    starts[rows] = n;
    w.row_ptr = rig_input(r, CSP_I64, 1, (int64_t[]) { rows + 1 }, starts);
    w.term = rig_input(r, CSP_I32, 1, (int64_t[]) { n + 3 }, term);
    w.weight = rig_input(r, CSP_F32, 1, (int64_t[]) { n + 3 }, weight);
    w.argmax = rig_input(r, CSP_I32, 1, (int64_t[]) { n + 3 }, argmax);
    w.vocab = V;
    w.active = rows > 0 ? (double)n / (double)rows : 0.0;
    return w;
}

/* The entries of the rows, checked. */
typedef struct entries {
    const int64_t *row_ptr;
    const int32_t *term;
} entries;

static entries checked_entries(rig *r, const csp_sparse *w, int64_t rows)
{
    const entries e = { rig_host(r, &w->row_ptr), rig_host(r, &w->term) };
    const float *weight = rig_host(r, &w->weight);

    assert_int_equal(e.row_ptr[0], 0);
    for (int64_t row = 0; row < rows; row++) {
        assert_true(e.row_ptr[row + 1] >= e.row_ptr[row]);
        assert_true(e.row_ptr[row + 1] <= w->term.dim[0]);
        for (int64_t i = e.row_ptr[row]; i < e.row_ptr[row + 1]; i++) {
            assert_true(e.term[i] >= 0 && e.term[i] < w->vocab);
            assert_true(i == e.row_ptr[row] || e.term[i] > e.term[i - 1]);
            assert_true(weight[i] > 0.0f);
        }
    }
    return e;
}

double *rig_sparse_dense(rig *r, const csp_sparse *w, int64_t rows, const csp_tensor *values)
{
    const entries e = checked_entries(r, w, rows);
    const float *value = rig_host(r, values != NULL ? values : &w->weight);
    double *dense = rig_doubles(r, rows * w->vocab);

    for (int64_t row = 0; row < rows; row++) {
        for (int64_t i = e.row_ptr[row]; i < e.row_ptr[row + 1]; i++) {
            dense[row * w->vocab + e.term[i]] = (double)value[i];
        }
    }
    return dense;
}

int32_t *rig_sparse_argmax(rig *r, const csp_sparse *w, int64_t rows)
{
    const entries e = checked_entries(r, w, rows);
    const int32_t *argmax = rig_host(r, &w->argmax);
    int32_t *dense = rig_ints(r, rows * w->vocab);

    for (int64_t i = 0; i < rows * w->vocab; i++) {
        dense[i] = -1;
    }
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t i = e.row_ptr[row]; i < e.row_ptr[row + 1]; i++) {
            dense[row * w->vocab + e.term[i]] = argmax[i];
        }
    }
    return dense;
}

int64_t rig_sparse_entries(rig *r, const csp_sparse *w, int64_t rows)
{
    return checked_entries(r, w, rows).row_ptr[rows];
}
