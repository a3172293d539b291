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

/* σ(x); 0 where exp overflows. */
static __device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* Any grid works: threads stride over pieces of W elements, 16 bytes or one. */
template <typename T, int W>
static __global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_fwd_kernel(const T *gate, /* (N,F) may be m */
                      const T *up,   /* (N,F) may be m */
                      T *m,          /* (N,F)          */
                      int64_t pieces)
{
    for (int64_t i = grid_thread(); i < pieces; i += grid_threads()) {
        float g[W], u[W];

        load_vec(gate + i * W, g);
        load_vec(up + i * W, u);
#pragma unroll
        for (int c = 0; c < W; c++) {
            u[c] = g[c] * sigmoid(g[c]) * u[c];
        }
        store_vec(m + i * W, u);
    }
}

/* Any grid works: threads stride over pieces of W elements, 16 bytes or one. */
template <typename T, int W>
static __global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_bwd_kernel(const T *gate, /* (N,F) may be dgate        */
                      const T *up,   /* (N,F) may be dup          */
                      const T *dm,   /* (N,F) may be dgate or dup */
                      T *dgate,      /* (N,F)                     */
                      T *dup,        /* (N,F)                     */
                      int64_t pieces)
{
    for (int64_t i = grid_thread(); i < pieces; i += grid_threads()) {
        float g[W], u[W], d[W];

        load_vec(gate + i * W, g);
        load_vec(up + i * W, u);
        load_vec(dm + i * W, d);
#pragma unroll
        for (int c = 0; c < W; c++) {
            const float x = g[c], s = sigmoid(x);

            g[c] = d[c] * u[c] * s * (1.0f + x * (1.0f - s));
            u[c] = d[c] * (x * s);
        }
        store_vec(dgate + i * W, g);
        store_vec(dup + i * W, u);
    }
}

static dim3 swiglu_grid(csp_backend *be, int64_t pieces)
{
    return stride_grid(pieces, SWIGLU_THREADS,
                       (int64_t)cuda_state_of(be)->processors * BLOCKS_OF_SM);
}

template <typename T>
static csp_status swiglu_fwd(csp_backend *be, int64_t n, const T *gate, const T *up, T *m)
{
    const int W = vec_width<T>::value;
    const bool wide = is_vec_row(gate, n) && is_vec_row(up, n) && is_vec_row(m, n);
    const int64_t pieces = wide ? n / W : n;

    CUDA_TRY(cu::launch(wide ? swiglu_fwd_kernel<T, W> : swiglu_fwd_kernel<T, 1>,
                        swiglu_grid(be, pieces), SWIGLU_THREADS, 0, cuda_stream(be, "swiglu_fwd"),
                        gate, up, m, pieces));
    return CSP_OK;
}

csp_status cuda_swiglu_fwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                           csp_tensor *m)
{
    const int64_t n = csp_tensor_count(gate);

    if (gate->dtype == CSP_BF16) {
        return swiglu_fwd(be, n, (const __nv_bfloat16 *)gate->data, (const __nv_bfloat16 *)up->data,
                          (__nv_bfloat16 *)m->data);
    }
    return swiglu_fwd(be, n, (const float *)gate->data, (const float *)up->data, (float *)m->data);
}

template <typename T>
static csp_status swiglu_bwd(csp_backend *be, int64_t n, const T *gate, const T *up, const T *dm,
                             T *dgate, T *dup)
{
    const int W = vec_width<T>::value;
    const bool wide = is_vec_row(gate, n) && is_vec_row(up, n) && is_vec_row(dm, n) &&
                      is_vec_row(dgate, n) && is_vec_row(dup, n);
    const int64_t pieces = wide ? n / W : n;

    CUDA_TRY(cu::launch(wide ? swiglu_bwd_kernel<T, W> : swiglu_bwd_kernel<T, 1>,
                        swiglu_grid(be, pieces), SWIGLU_THREADS, 0, cuda_stream(be, "swiglu_bwd"),
                        gate, up, dm, dgate, dup, pieces));
    return CSP_OK;
}

csp_status cuda_swiglu_bwd(csp_backend *be, const csp_tensor *gate, const csp_tensor *up,
                           const csp_tensor *dm, csp_tensor *dgate, csp_tensor *dup)
{
    const int64_t n = csp_tensor_count(gate);

    if (gate->dtype == CSP_BF16) {
        return swiglu_bwd(be, n, (const __nv_bfloat16 *)gate->data, (const __nv_bfloat16 *)up->data,
                          (const __nv_bfloat16 *)dm->data, (__nv_bfloat16 *)dgate->data,
                          (__nv_bfloat16 *)dup->data);
    }
    return swiglu_bwd(be, n, (const float *)gate->data, (const float *)up->data,
                      (const float *)dm->data, (float *)dgate->data, (float *)dup->data);
}
