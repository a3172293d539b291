/*
 * linear.cuh - what the files of ops/linear.h share: a group as plain addresses, the tails behind
 * and below its operands (linear_tail.cu), biases (linear_bias.cu).
 */
#pragma once

#include "device.h"
#include "portable.cuh"

/* A matrix of elements T, `row` of them from one row to the next. */
template <typename T> struct linear_matrix {
    T *at; /* NULL: none */
    int64_t row;
};

template <typename T> static inline linear_matrix<T> matrix_of(const csp_tensor *t)
{
    return t->ndim > 0 ? linear_matrix<T> { (T *)t->data, csp_tensor_row(t) }
                       : linear_matrix<T> { NULL, 0 };
}

/* One map of a group. */
template <typename T> struct linear_part {
    int64_t O, R;
    int64_t before; /* ranks of the parts before it: where its columns of a tail begin */
    float scale;
    const T *a, *b; /* (R,I), (O,R); NULL without an adapter */
    linear_matrix<const T> w;
    const csp_dropout *dropout; /* NULL: none */
};

/* What both directions work with; T is how tensors are stored. */
template <typename T> struct linear_call {
    csp_backend *be;
    const csp_linear_group *group;
    int count;
    int64_t N, I;
    int64_t ranks; /* of all parts */
    linear_part<T> part[CSP_LINEAR_PARTS];
};

/*
 * After the branches of all parts stand side by side in tail (N,W): copies the columns of part i to
 * u[i] (N,R), where that is not NULL, and sets the columns behind those of all parts to 0.
 */
template <typename T>
csp_status cuda_linear_close_tail(const linear_call<T> *c, linear_matrix<T> tail, int64_t W,
                                  T *const u[CSP_LINEAR_PARTS]);

/* Writes s B of each part in its own rows and columns of tail (sum of O,W), 0 elsewhere. */
template <typename T>
csp_status cuda_linear_w_tail(const linear_call<T> *c, linear_matrix<T> tail, int64_t W);

/* Writes the rows of A of each part to tail (W,I), 0 below. */
template <typename T>
csp_status cuda_linear_a_tail(const linear_call<T> *c, linear_matrix<T> tail, int64_t W);

/* y (N,O) = bias, or y + bias where add is set. */
template <typename T>
csp_status cuda_linear_bias_fwd(csp_backend *be, bool add, const T *bias, int64_t N, int64_t O,
                                linear_matrix<T> y);

/* dbias += sum of rows of dy (N,O), in parts that depend on N only. Takes scratch. */
template <typename T>
csp_status cuda_linear_bias_bwd(csp_backend *be, int64_t N, int64_t O, linear_matrix<const T> dy,
                                float *dbias);
