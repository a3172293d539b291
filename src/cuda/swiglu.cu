/*
 * swiglu.cu - CUDA side of ops/swiglu.h.
 *
 * Bound by memory: every element is read and written once, 16 bytes at a time where all addresses
 * and the number of elements allow. Outputs may be inputs: a thread reads what it needs of an
 * element before it writes it, and nobody else touches that element.
 */
#include "device.h"
#include "launch.cuh"
#include "vec.cuh"

enum { SWIGLU_THREADS = 256, BLOCKS_OF_SM = 8 };

/* VEC neighbouring elements: 16 bytes, or one. */
template <int VEC> struct alignas(VEC * sizeof(float)) swiglu_piece {
    float at[VEC];
};

/* σ(x); 0 where exp overflows. */
static __device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* Any grid works: threads stride over the pieces. */
template <int VEC>
static __global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_fwd_kernel(const float *gate, /* (N,F) may be m */
                      const float *up,   /* (N,F) may be m */
                      float *m,          /* (N,F)          */
                      int64_t pieces)
{
    for (int64_t i = grid_thread(); i < pieces; i += grid_threads()) {
        const swiglu_piece<VEC> g = reinterpret_cast<const swiglu_piece<VEC> *>(gate)[i];
        swiglu_piece<VEC> u = reinterpret_cast<const swiglu_piece<VEC> *>(up)[i];

#pragma unroll
        for (int c = 0; c < VEC; c++) {
            u.at[c] = g.at[c] * sigmoid(g.at[c]) * u.at[c];
        }
        reinterpret_cast<swiglu_piece<VEC> *>(m)[i] = u;
    }
}

/* Any grid works: threads stride over the pieces. */
template <int VEC>
static __global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_bwd_kernel(const float *gate, /* (N,F) may be dgate        */
                      const float *up,   /* (N,F) may be dup          */
                      const float *dm,   /* (N,F) may be dgate or dup */
                      float *dgate,      /* (N,F)                     */
                      float *dup,        /* (N,F)                     */
                      int64_t pieces)
{
    for (int64_t i = grid_thread(); i < pieces; i += grid_threads()) {
        swiglu_piece<VEC> g = reinterpret_cast<const swiglu_piece<VEC> *>(gate)[i];
        swiglu_piece<VEC> u = reinterpret_cast<const swiglu_piece<VEC> *>(up)[i];
        const swiglu_piece<VEC> d = reinterpret_cast<const swiglu_piece<VEC> *>(dm)[i];

#pragma unroll
        for (int c = 0; c < VEC; c++) {
            const float x = g.at[c], s = sigmoid(x);

            g.at[c] = d.at[c] * u.at[c] * s * (1.0f + x * (1.0f - s));
            u.at[c] = d.at[c] * (x * s);
        }
        reinterpret_cast<swiglu_piece<VEC> *>(dgate)[i] = g;
        reinterpret_cast<swiglu_piece<VEC> *>(dup)[i] = u;
    }
}

static dim3 swiglu_grid(csp_backend *be, int64_t pieces)
{
    return stride_grid(pieces, SWIGLU_THREADS,
                       (int64_t)cuda_state_of(be)->processors * BLOCKS_OF_SM);
}

csp_status cuda_swiglu_fwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                           csp_tensor *m)
{
    const int64_t n = csp_tensor_count(gate);
    const float *in = (const float *)gate->data, *branch = (const float *)up->data;
    float *out = (float *)m->data;
    const bool wide = is_vec_row(in, n) && is_vec_row(branch, n) && is_vec_row(out, n);
    const int64_t pieces = wide ? n / 4 : n;

    CUDA_TRY(cu::launch(wide ? swiglu_fwd_kernel<4> : swiglu_fwd_kernel<1>, swiglu_grid(be, pieces),
                        SWIGLU_THREADS, 0, cuda_stream(be, "swiglu_fwd"), in, branch, out, pieces));
    return CSP_OK;
}

csp_status cuda_swiglu_bwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                           const csp_tensor *dm, csp_tensor *dgate, csp_tensor *dup)
{
    const int64_t n = csp_tensor_count(gate);
    const float *in = (const float *)gate->data, *branch = (const float *)up->data;
    const float *d = (const float *)dm->data;
    float *d_in = (float *)dgate->data, *d_branch = (float *)dup->data;
    const bool wide = is_vec_row(in, n) && is_vec_row(branch, n) && is_vec_row(d, n) &&
                      is_vec_row(d_in, n) && is_vec_row(d_branch, n);
    const int64_t pieces = wide ? n / 4 : n;

    CUDA_TRY(cu::launch(wide ? swiglu_bwd_kernel<4> : swiglu_bwd_kernel<1>, swiglu_grid(be, pieces),
                        SWIGLU_THREADS, 0, cuda_stream(be, "swiglu_bwd"), in, branch, d, d_in,
                        d_branch, pieces));
    return CSP_OK;
}
