/*
 * attention.h - batches of packed texts for the tests of attention: their tensors, what the
 * reference needs of them, and how far results may be from it.
 */
#pragma once

#include "ops/attention.h"
#include "ref/attention.h"
#include "support/attention_cases.h"
#include "support/rig.h"

typedef struct attention_setup {
    csp_attention a;
    ref_attention ref;
    csp_dtype S; /* what q, k, v and all of their shapes are stored as */
    int64_t N, longest;
    csp_tensor q, k, v;
} attention_setup;

/* What backward is called with, and what the reference says of dq, dk and dv. */
typedef struct attention_grads {
    csp_attention_grad g;
    double *want[3], *mag[3];
} attention_grads;

/* (rows,width) uniform numbers of -scale .. scale, stored as S. */
csp_tensor attention_uniform(rig *r, csp_dtype S, double scale, int64_t rows, int64_t width);

/* scale widens the scores: exponents far apart are where a softmax can go wrong. */
attention_setup attention_make(rig *r, csp_dtype S, const attention_case *like, double scale);

/* attention_cases[i]; whether it is run as S: what other cases do is time on an emulated device. */
attention_setup attention_make_case(rig *r, csp_dtype S, int64_t i);
bool attention_is_for(const rig *r, csp_dtype S, int64_t i);

/* Outputs: (N,heads*width) as S, (N,H) f32. */
csp_tensor attention_output(rig *r, const attention_setup *s, int64_t heads, int64_t width);
csp_tensor attention_lse(rig *r, const attention_setup *s);

/*
 * Runs forward and compares it with the reference. The op is given q, k and v of s; dense, which
 * may be s, has them as the reference reads them.
 */
void attention_check_forward(rig *r, const attention_setup *s, const attention_setup *dense);

/* Runs forward, and the reference's backward on the same o and lse. */
attention_grads attention_make_grads(rig *r, const attention_setup *s);

/* Backward has been called with g: dq, dk and dv are what the reference says. */
void attention_check_grads(rig *r, const attention_setup *s, const attention_grads *g);
