/*
 * model.h - f64 reference of a whole model, put together from the references of its ops: hidden
 * states of a packed batch, and gradients of every parameter from theirs.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ref/linear.h"

/* In the order of csp_matrix. */
enum { REF_Q, REF_K, REF_V, REF_O, REF_GATE, REF_UP, REF_DOWN, REF_MATRICES };

typedef struct ref_layer {
    const double *attn_norm, *mlp_norm; /* (D)                                    */
    ref_linear map[REF_MATRICES];       /* N, m and what it is rounded to are set here */
} ref_layer;

typedef struct ref_model {
    int64_t V, D, F, L, H, G, E;
    double eps;
    const double *embed, *final_norm;    /* (V,D) (D)                                  */
    const ref_layer *layer;              /* [L]                                        */
    const double *cos_table, *sin_table; /* (P,E/2)                                    */
    bool causal;
    double dropout; /* p of every adapter; 0: none                */
    uint64_t seed, step;
    bool bf16; /* every activation and gradient of one is rounded to bf16 where it is
                  stored, once: as an implementation must that keeps them so       */
} ref_model;

typedef struct ref_texts {
    const int32_t *token, *seq_start; /* (N) (B+1) */
    const int64_t *row_key;           /* (N) of dropout */
    int64_t B, N;
} ref_texts;

/* Where gradients are added; NULL: not wanted. */
typedef struct ref_layer_grad {
    double *attn_norm, *mlp_norm;
    double *w[REF_MATRICES], *a[REF_MATRICES], *b[REF_MATRICES];
} ref_layer_grad;

typedef struct ref_model_grad {
    double *embed, *final_norm;
    ref_layer_grad *layer; /* [L] */
} ref_model_grad;

typedef struct ref_run ref_run;

/* model and texts must outlive the run. h: (N,D), the run's. */
ref_run *ref_model_fwd(const ref_model *model, const ref_texts *texts, const double **h);
void ref_model_bwd(ref_run *run, const double *dh, const ref_model_grad *grad);
void ref_run_free(ref_run *run);
