/*
 * attention_bwd.cuh - what both sets of backward kernels of attention share: what they are given,
 * and how texts that do not fit on chip are taken in chunks where gradients lie over k and v.
 *
 * There dk and dv go first, into scratch memory where they would lie over k or v, dq next, and then
 * the scratch over k and v; chunks bound that memory.
 * The texts of a chunk lie together, so that a batch in several chunks goes in their order.
 * Scratch: 2 G*E elements for each row of a chunk, at most ATTENTION_CHUNK_BYTES or what one text
 * needs.
 */
#pragma once

#include "attention_tile.cuh"
#include "device.h"
#include "launch.cuh"

#define ATTENTION_CHUNK_BYTES ((int64_t)64 << 20)
enum { COPY_THREADS = 256, COPY_BLOCKS_OF_SM = 8 };

/* What backward reads and writes. dq may be q, dk may be k, dv may be v. */
template <typename S> struct bwd_tensors {
    const S *q;       /* (N,H*E) */
    const S *k;       /* (N,G*E) */
    const S *v;       /* (N,G*E) */
    const S *o;       /* (N,H*E) */
    const float *lse; /* (N,H)   */
    const S *d_o;     /* (N,H*E) */
    S *dq;            /* (N,H*E) */
    S *dk;            /* (N,G*E) */
    S *dv;            /* (N,G*E) */
};

/*
 * What the launches of all widths are given. With capacity 0 dk and dv have the rows of the batch;
 * otherwise they are scratch memory of that many rows, the first of which is the first row of this
 * launch's texts.
 */
template <typename S> struct bwd_launch {
    csp_backend *be;
    cudaStream_t stream;
    attention_batch batch;
    bwd_tensors<S> tensors;
    int64_t longest, N, capacity;
};

template <typename S>
static bwd_launch<S> bwd_launch_of(csp_backend *be, const csp_attention *a,
                                   const csp_attention_grad *g)
{
    return { be,
             cuda_stream(be, "attention_bwd"),
             attention_batch_of(a, &g->q, &g->k, &g->v),
             { (const S *)g->q.data, (const S *)g->k.data, (const S *)g->v.data,
               (const S *)g->o.data, (const float *)g->lse.data, (const S *)g->d_o.data,
               (S *)g->dq.data, (S *)g->dk.data, (S *)g->dv.data },
             a->longest,
             g->q.dim[0],
             0 };
}

/* The list of rows that a piece's dk or dv goes to. */
static __device__ __forceinline__ row_list key_grad_rows(const attention_batch &a,
                                                         const row_list &keys, int64_t capacity)
{
    row_list out = keys;

    if (capacity > 0) {
        out.first -= a.seq_start[0];
        out.stride = a.G * a.E;
        if (out.first + out.T > capacity) {
            cu::trap(); /* longer than csp_attention.longest says: there is no room for dk, dv */
        }
    }
    return out;
}

/* dk and dv of the texts seq_start[0 .. texts] from scratch to their place, where rows lie strides
 * of elements apart. Any grid works. */
template <typename S>
static __global__ void __launch_bounds__(COPY_THREADS)
    attention_copy_kernel(const int32_t *__restrict__ seq_start, /* (texts+1)                  */
                          const S *__restrict__ from_dk,         /* (rows,width), rows of texts */
                          const S *__restrict__ from_dv,         /* (rows,width)               */
                          S *__restrict__ dk,                    /* (N,width)                  */
                          S *__restrict__ dv,                    /* (N,width)                  */
                          int64_t texts, int64_t width, int64_t stride_k, int64_t stride_v)
{
    const int64_t first = seq_start[0], n = (seq_start[texts] - first) * width;

    for (int64_t i = grid_thread(); i < n; i += grid_threads()) {
        const int64_t row = i / width, column = i % width;

        dk[(first + row) * stride_k + column] = from_dk[i];
        dv[(first + row) * stride_v + column] = from_dv[i];
    }
}

/* The grid of tiles of up to rows rows for each piece. */
static inline dim3 tile_grid(int64_t texts, int64_t G, int64_t rows, int tile)
{
    const int64_t tiles = ceil_div(rows, tile);

    return dim3((unsigned)(texts * G), (unsigned)(tiles < CUDA_GRID_YZ ? tiles : CUDA_GRID_YZ));
}

/* Rows that texts of the batch have together at most. */
template <typename S> static int64_t chunk_rows(const bwd_launch<S> &l, int64_t texts)
{
    return texts * l.longest < l.N ? texts * l.longest : l.N;
}

/* All texts by way of pass, which launches the kernels for dk and dv and then that for dq. */
template <typename S>
static csp_status launch_chunks(const bwd_launch<S> &l,
                                csp_status (*pass)(const bwd_launch<S> &chunk))
{
    const bool aliased = l.tensors.dk == l.tensors.k || l.tensors.dv == l.tensors.v;
    const int64_t width = l.batch.G * l.batch.E, row_bytes = 2 * width * (int64_t)sizeof(S);
    const int64_t most =
        aliased ? pick_attention_chunk(l.batch.texts, l.longest, row_bytes, ATTENTION_CHUNK_BYTES)
                : l.batch.texts;
    const int64_t rows = chunk_rows(l, most);
    void *scratch = nullptr;

    if (!aliased) {
        return pass(l);
    }
    CSP_TRY(cuda_scratch(l.be, (size_t)(rows * row_bytes), &scratch));
    for (int64_t first = 0; first < l.batch.texts; first += most) {
        const dim3 grid = stride_grid(rows * width, COPY_THREADS,
                                      (int64_t)cuda_state_of(l.be)->processors * COPY_BLOCKS_OF_SM);
        bwd_launch<S> chunk = l;

        chunk.batch.texts = l.batch.texts - first < most ? l.batch.texts - first : most;
        chunk.batch.order = most < l.batch.texts ? nullptr : l.batch.order;
        chunk.batch.seq_start += first;
        chunk.capacity = rows;
        chunk.tensors.dk = (S *)scratch;
        chunk.tensors.dv = (S *)scratch + rows * width;
        CSP_TRY(pass(chunk));
        CUDA_TRY(cu::launch(attention_copy_kernel<S>, grid, COPY_THREADS, 0, l.stream,
                            chunk.batch.seq_start, chunk.tensors.dk, chunk.tensors.dv, l.tensors.dk,
                            l.tensors.dv, chunk.batch.texts, width, l.batch.stride_k,
                            l.batch.stride_v));
    }
    return CSP_OK;
}
