/* pool_back.c - backward calls of the retrieval head. */
#include "support/pool_back.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "support/compare.h"
#include "support/sparse.h"

bool pool_takes(rig *r, csp_pool_way way)
{
    const csp_status status = csp_sparse_pool_choose(r->be, way);

    if (status != CSP_OK) {
        assert_int_equal(status,
                         strcmp(r->be->name, "cpu") == 0 ? CSP_ERR_UNSUPPORTED : CSP_ERR_DEVICE);
        assert_true(way == CSP_POOL_CUSPARSE || strcmp(r->be->name, "cpu") == 0);
    }
    return status == CSP_OK;
}

pool_back pool_make_back(rig *r, const pool_setup *s, csp_sparse rows)
{
    pool_back g;

    g.rows = rows;
    g.entries = 0;
    g.way = CSP_POOL_AUTO;
    g.dw = rig_normal(r, CSP_F32, 1, rows.term.dim);
    g.dh = rig_output(r, s->h.dtype, 2, s->h.dim);
    g.de = rig_accumulated(r, 2, s->head.e.dim);
    g.de_was = rig_as_doubles(r, &g.de);
    return g;
}

csp_status pool_backward(csp_backend *be, const pool_setup *s, pool_back *g, bool trained)
{
    csp_sparse_pool_grad grad = { .rows = &g->rows,
                                  .dw = g->dw,
                                  .first_row = 0,
                                  .h = trained || s->head.pooling == CSP_POOL_SUM
                                           ? s->h
                                           : csp_tensor_none(),
                                  .texts = s->texts,
                                  .dh = g->dh,
                                  .de = trained ? g->de : csp_tensor_none(),
                                  .entries = g->entries };

    return csp_sparse_pool_bwd(be, &s->head, &grad);
}

void pool_check_back(rig *r, const pool_setup *s, const pool_back *g, int64_t h_terms,
                     int64_t e_terms)
{
    const csp_dtype S = s->h.dtype;
    const ref_pool *p = &s->ref;
    const float *got = rig_floats(r, &g->dh);
    const double *w = rig_sparse_dense(r, &g->rows, p->B, NULL);
    const double *dw = rig_sparse_dense(r, &g->rows, p->B, &g->dw);
    double *dh = rig_doubles(r, p->N * p->D), *dh_mag = rig_doubles(r, p->N * p->D);
    double *de = rig_doubles(r, p->V * p->D), *de_mag = rig_doubles(r, p->V * p->D);

    for (int64_t i = 0; i < p->V * p->D; i++) {
        de[i] = g->de_was[i];
        de_mag[i] = fabs(g->de_was[i]);
    }
    if (s->head.pooling == CSP_POOL_MAX) {
        ref_pool_max_bwd(p, w, rig_sparse_argmax(r, &g->rows, p->B), dw, dh, dh_mag, de, de_mag);
    } else {
        ref_pool_sum_bwd(p, dw, dh, dh_mag, de, de_mag);
    }
    /* dz: exp or a quotient (4 units), two products; one more product for each term of the sum. A
     * tile of dz, and what cuSPARSE takes, is stored as S, and so is dh. */
    const bool stored =
        g->way == CSP_POOL_TILES || g->way == CSP_POOL_CUSPARSE || s->head.pooling == CSP_POOL_SUM;
    const double dz = S == CSP_BF16 && stored ? UNIT_BF16 : 0.0;

    assert_true(worst_ratio("dh", got, dh, dh_mag, p->N * p->D,
                            stored_bound(S, (double)(h_terms + 8)) + dz) <= 1.0);
    assert_true(norm_distance(got, dh, p->N * p->D) <= BF16_NORM_LIMIT);
    assert_true(worst_ratio("de", rig_host(r, &g->de), de, de_mag, p->V * p->D,
                            (double)(e_terms + 8) * UNIT_F32 + dz) <= 1.0);
    rig_check_guards(r);
}

csp_tensor pool_keep_of(rig *r, const csp_sparse *w, const csp_tensor *seq_start, int64_t N)
{
    const int64_t B = seq_start->dim[0] - 1;
    const int32_t *start = rig_host(r, seq_start), *arg = rig_sparse_argmax(r, w, B);
    uint8_t *keep = (uint8_t *)rig_ints(r, N);

    for (int64_t n = 0; n < N; n++) {
        keep[n] = n % 3 == 1;
    }
    for (int64_t i = 0; i < B * w->vocab; i++) {
        if (arg[i] >= 0) {
            keep[start[i / w->vocab] + arg[i]] = 1;
        }
    }
    return rig_input(r, CSP_U8, 1, &N, keep);
}
