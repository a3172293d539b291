/* attention.c - batches for the tests of attention. */
#include "support/attention.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "ops/rope.h"
#include "support/compare.h"

csp_tensor attention_uniform(rig *r, csp_dtype S, double scale, int64_t rows, int64_t width)
{
    const csp_tensor t = rig_uniform(r, -scale, scale, 2, (int64_t[]) { rows, width });

    return rig_stored(r, S, &t);
}

attention_setup attention_make(rig *r, csp_dtype S, const attention_case *like, double scale)
{
    const csp_rope rope = { .theta = 10000.0 };
    const int64_t B = like->B, H = like->H, G = like->G, E = like->E;
    attention_setup s;

    memset(&s, 0, sizeof(s));
    s.S = S;
    for (int64_t b = 0; b < B; b++) {
        s.N += like->length[b];
        s.longest = like->length[b] > s.longest ? like->length[b] : s.longest;
    }
    s.a = (csp_attention) { .H = H, .G = G, .E = E, .longest = s.longest, .causal = like->causal };
    s.a.longest = like->claim > s.longest ? like->claim : s.longest;
    s.a.seq_start = rig_lengths(r, B, like->length);
    s.a.cos = rig_output(r, CSP_F32, 2, (int64_t[]) { s.a.longest + 2, E / 2 });
    s.a.sin = rig_output(r, CSP_F32, 2, (int64_t[]) { s.a.longest + 2, E / 2 });
    assert_int_equal(csp_rope_table(r->be, &rope, &s.a.cos, &s.a.sin), CSP_OK);
    s.q = attention_uniform(r, S, scale, s.N, H * E);
    s.k = attention_uniform(r, S, scale, s.N, G * E);
    s.v = rig_normal(r, S, 2, (int64_t[]) { s.N, G * E });
    s.ref = (ref_attention) { .seq_start = rig_host(r, &s.a.seq_start),
                              .cos_table = rig_as_doubles(r, &s.a.cos),
                              .sin_table = rig_as_doubles(r, &s.a.sin),
                              .B = B,
                              .H = H,
                              .G = G,
                              .E = E,
                              .causal = like->causal };
    return s;
}

/* Scores of bf16 rows stay so small that their own rounding is below the limit of the norm. */
attention_setup attention_make_case(rig *r, csp_dtype S, int64_t i)
{
    return attention_make(r, S, &attention_cases[i], i % 2 == 0 ? 1.5 : S == CSP_BF16 ? 2.0 : 4.0);
}

bool attention_is_for(const rig *r, csp_dtype S, int64_t i)
{
    const int as = S == CSP_BF16 ? AS_BF16 : AS_F32;

    return !r->emulated || (attention_cases[i].emulated & as) != 0;
}

csp_tensor attention_output(rig *r, const attention_setup *s, int64_t heads, int64_t width)
{
    return rig_output(r, s->S, 2, (int64_t[]) { s->N, heads * width });
}

csp_tensor attention_lse(rig *r, const attention_setup *s)
{
    return rig_output(r, CSP_F32, 2, (int64_t[]) { s->N, s->a.H });
}

/*
 * A result is within its bound, and bf16 ones also within the norm's limit; where a text of one row
 * leaves nothing but rounding of a gradient there is no norm.
 */
static void check_result(rig *r, const attention_setup *s, const char *name, const csp_tensor *got,
                         const double *want, const double *mag, double bound)
{
    const int64_t n = csp_tensor_count(got);
    const float *x = rig_floats(r, got);

    assert_true(worst_ratio(name, x, want, mag, n, bound) <= 1.0);
    if (got->dtype == CSP_BF16 && s->longest > 1) {
        assert_true(norm_distance(x, want, n) <= BF16_NORM_LIMIT);
    }
}

void attention_check_forward(rig *r, const attention_setup *s, const attention_setup *dense)
{
    const int64_t H = s->a.H, E = s->a.E, n = s->N * H * E;
    csp_tensor o = attention_output(r, s, H, E), lse = attention_lse(r, s);
    double *want = rig_doubles(r, n), *mag = rig_doubles(r, n);
    double *want_lse = rig_doubles(r, s->N * H), *lse_mag = rig_doubles(r, s->N * H);
    /* A score: two rotations of 3 roundings, E products, the scale. Then its exponential (4), the
     * subtraction of the maximum, T additions, the division. With bf16 storage rotated q and k are
     * rounded to it, which moves scores and lse by 2 units of their sizes (in the mags); so are
     * exponentials and o. */
    const double bound =
        (double)(E + s->longest + 20) * UNIT_F32 + (s->S == CSP_BF16 ? 2.0 * UNIT_BF16 : 0.0);

    ref_attention_fwd(&s->ref, rig_as_doubles(r, &dense->q), rig_as_doubles(r, &dense->k),
                      rig_as_doubles(r, &dense->v), want, mag, want_lse, lse_mag);
    assert_int_equal(csp_attention_fwd(r->be, &s->a, &s->q, &s->k, &s->v, &o, &lse), CSP_OK);
    check_result(r, s, "o", &o, want, mag, bound);
    check_result(r, s, "lse", &lse, want_lse, lse_mag, bound);
    rig_check_guards(r);
}

attention_grads attention_make_grads(rig *r, const attention_setup *s)
{
    attention_grads g;

    memset(&g, 0, sizeof(g));
    g.g.q = s->q;
    g.g.k = s->k;
    g.g.v = s->v;
    g.g.o = attention_output(r, s, s->a.H, s->a.E);
    g.g.lse = attention_lse(r, s);
    g.g.d_o = rig_normal(r, s->S, 2, (int64_t[]) { s->N, s->a.H * s->a.E });
    g.g.dq = attention_output(r, s, s->a.H, s->a.E);
    g.g.dk = attention_output(r, s, s->a.G, s->a.E);
    g.g.dv = attention_output(r, s, s->a.G, s->a.E);
    assert_int_equal(csp_attention_fwd(r->be, &s->a, &s->q, &s->k, &s->v, &g.g.o, &g.g.lse),
                     CSP_OK);
    for (int i = 0; i < 3; i++) {
        const int64_t n = s->N * (i == 0 ? s->a.H : s->a.G) * s->a.E;

        g.want[i] = rig_doubles(r, n);
        g.mag[i] = rig_doubles(r, n);
    }
    ref_attention_bwd(&s->ref, rig_as_doubles(r, &s->q), rig_as_doubles(r, &s->k),
                      rig_as_doubles(r, &s->v), rig_as_doubles(r, &g.g.o),
                      rig_as_doubles(r, &g.g.lse), rig_as_doubles(r, &g.g.d_o), g.want, g.mag);
    return g;
}

void attention_check_grads(rig *r, const attention_setup *s, const attention_grads *g)
{
    /* A score's roundings, those of dP and delta (E each), then the sum over T rows and the
     * group's heads, and the rotation back. With bf16 storage scores move by 2 units of their sizes
     * (in the mags), and these are rounded: dS, q or k, dq or dk; or P and dv. */
    const double bound = (double)(2 * s->a.E + s->longest * (s->a.H / s->a.G) + 30) * UNIT_F32 +
                         (s->S == CSP_BF16 ? 3.0 * UNIT_BF16 : 0.0);

    check_result(r, s, "dq", &g->g.dq, g->want[0], g->mag[0], bound);
    check_result(r, s, "dk", &g->g.dk, g->want[1], g->mag[1], bound);
    check_result(r, s, "dv", &g->g.dv, g->want[2], g->mag[2], bound);
}
