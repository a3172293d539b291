/*
 * sparse_pool.h - the retrieval head: vocabulary product, saturation and pooling over the tokens of
 * each text, fused by tiles of the vocabulary. The (N,V) logits never exist.
 *
 * A batch of representations is stored as CSR with the winning position beside each weight, which
 * is all the backward pass needs: each (text, term) has at most one non-zero logit gradient.
 *
 * S is the storage type of a call, f32 or bf16 (not on the CPU): that of e, h and dh.
 */
#pragma once

#include "ops/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sparse rows. Capacity is dim[0] of term, weight, argmax; row_ptr has rows + 1 entries. */
typedef struct csp_sparse {
    csp_tensor row_ptr; /* (rows+1) i64  row_ptr[0] = 0                                          */
    csp_tensor term;    /* (cap) i32     ascending in a row                                      */
    csp_tensor weight;  /* (cap) f32     > 0; NaN where a logit was                              */
    csp_tensor argmax;  /* (cap) i32     position in the text, from its own start, of the first
                                         kept row that reaches the maximum; not written by sum   */
    int64_t vocab;      /* V                                                                     */
    double active;      /* about how many entries a row has: a device picks its way by it, and the
                           host need not wait to learn the number. Not looked at by sparse_pool  */
} csp_sparse;

typedef enum csp_pool_kind { CSP_POOL_MAX = 0, CSP_POOL_SUM = 1 } csp_pool_kind;

typedef struct csp_head {
    csp_tensor e;       /* (V,D) S    vocabulary matrix                                         */
    csp_tensor exclude; /* (V) u8     1 for a term that is never active, or none                */
    float scale;        /* k: logits are k h e^T; > 0                                           */
    csp_pool_kind pooling;
} csp_head;

/* The texts of a packed batch as the head sees them; the host, which packed them, knows sizes. */
typedef struct csp_pool_texts {
    csp_tensor seq_start; /* (B+1) i32  first row of each text; seq_start[B] is N               */
    csp_tensor keep;      /* (N) u8     1 for a pooled row, 0 for the first copy of an echo     */
    int64_t kept;         /* rows with keep set: only these are multiplied with e               */
    int64_t longest;      /* rows of the longest text, or more                                  */
} csp_pool_texts;

/*
 * Representations of the B texts of a packed batch, appended as rows first_row .. first_row+B-1.
 *
 *     z = k h e^T
 *     max:  w[b,v] = log(1 + ReLU(max over kept rows n of text b of z[n,v]))
 *     sum:  w[b,v] = sum over kept rows n of text b of log(1 + ReLU(z[n,v]))
 *
 * Source: CSPLADE (arXiv 2504.10816) and SPLADE (sum: v1, max: v2); docs/method.md 4.
 *
 *   h          in     (N,D)  S     final hidden states
 *   texts      in
 *   first_row  in     rows already in out; row_ptr[first_row] entries are in use
 *   out        in,out capacity for first_row + B rows and all their entries; entries of weight 0
 *                     are not stored; what lies behind the last entry is undefined afterwards
 *
 * A text with no kept row gives an empty row. Where a logit of a kept row is NaN, and the term not
 * excluded, the weight of that text and term is NaN whatever the other logits are, stored like any
 * other, and argmax the first such row: who reads weights, scores or losses sees it.
 * Aliasing:   none.
 * Precision:  f32: logits compared without rounding, one log1p. bf16: products are added in f32, h
 *             e^T is rounded to bf16 once and compared so, which makes ties (the first row wins);
 *             k and log1p in f32. The same bits on every run.
 * Stream:     enqueued on be; waits for be where out has less room than for first_row + B full rows
 *             of V entries, so that it may be too small.
 * Errors:     CSP_ERR_SHAPE, CSP_ERR_MEMORY (out is too small: needed and present; the rows before
 *             first_row are untouched), CSP_ERR_UNSUPPORTED (bf16: a backend that has none, max
 *             pooling of a text of more than 65,536 rows), CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_sparse_pool_fwd(csp_backend *be, const csp_head *head,
                                           const csp_tensor *h, const csp_pool_texts *texts,
                                           int64_t first_row, csp_sparse *out);

/*
 * Gradients of csp_sparse_pool_fwd for max pooling, through the saved positions.
 *
 *     dz[a,j] = dw · exp(-w)   for each stored (j, a, w);   dh = k dz e;   de += k dz^T h
 *
 *   rows       in      rows first_row .. first_row+B-1 are those of this batch
 *   dw         in      (cap) f32   gradient of each weight of rows, same places
 *   h          in      (N,D) S     needed for de only; may be none
 *   dh         out     (N,D) S     overwritten (zero where no position won)
 *   de         in,out  (V,D) f32, or none   added to
 *   entries    in      about how many entries these rows have, 0: not known; a device goes another
 *                      way where they are many (csp_sparse_pool_choose)
 *
 * Sum pooling: dz[n,j] = dw · 1/(1 + z[n,j]) at every kept n with z[n,j] > 0; h is required and the
 * logits are computed again by tiles.
 *
 * Precision:  sums in f32, dh rounded once; the rows of e that one row of dh receives are added in
 *             order of terms, the rows of h that one row of de receives in order of texts. Sum
 *             pooling, and max pooling by tiles: dz is rounded to S, dh is added up by blocks of
 *             terms, de by blocks of rows. By cuSPARSE dz is rounded to S too, and the order is
 *             its own. The same bits on every run, by cuSPARSE where NVIDIA's word for it holds.
 * Stream:     enqueued on be; by cuSPARSE be is waited for, which is told the number of entries.
 * Errors:     CSP_ERR_SHAPE, CSP_ERR_ARGUMENT, CSP_ERR_UNSUPPORTED (bf16; sum pooling by a way that
 *             was chosen for max; streaming on a device with less than 94 KiB of shared memory),
 *             CSP_ERR_MEMORY (or above CSP_POOL_CUSPARSE_BYTES, by cuSPARSE), CSP_ERR_DEVICE.
 */
typedef struct csp_sparse_pool_grad {
    const csp_sparse *rows;
    csp_tensor dw;
    int64_t first_row;
    csp_tensor h;
    csp_pool_texts texts;
    csp_tensor dh;
    csp_tensor de;
    int64_t entries;
} csp_sparse_pool_grad;
CSP_CHECKED csp_status csp_sparse_pool_bwd(csp_backend *be, const csp_head *head,
                                           csp_sparse_pool_grad *g);

/* How a device forms the gradient of max pooling: the same to rounding, at another speed. */
typedef enum csp_pool_way {
    CSP_POOL_AUTO = 0,    /* one of the next three, by the number of entries               */
    CSP_POOL_LISTS = 1,   /* a row of e, and of h, is gathered for each entry              */
    CSP_POOL_STREAM = 2,  /* the same, but e is read in order of terms by blocks of rows   */
    CSP_POOL_TILES = 3,   /* products of dense tiles; the way of sum pooling               */
    CSP_POOL_CUSPARSE = 4 /* by NVIDIA's library: a fallback and a yardstick               */
} csp_pool_way;

/*
 * Sets how be goes from now on; it begins with CSP_POOL_AUTO.
 *
 * Stream:     host only.
 * Errors:     CSP_ERR_UNSUPPORTED (a CPU, which has one way only), CSP_ERR_DEVICE (cuSPARSE: the
 *             library is not found or does not start, in words), CSP_ERR_ARGUMENT.
 */
CSP_CHECKED csp_status csp_sparse_pool_choose(csp_backend *be, csp_pool_way way);

/* How a device forms the maxima: by fused sums are added in another order. */
typedef enum csp_pool_forward {
    CSP_POOL_FORWARD_AUTO = 0,  /* tiles, as long as no device has measured the other faster  */
    CSP_POOL_FORWARD_TILES = 1, /* a tile of logits by a library, folded by a kernel          */
    CSP_POOL_FORWARD_FUSED = 2  /* one kernel; bf16, max pooling, compute capability 9.0 only */
} csp_pool_forward;

/*
 * Sets how be goes forward from now on; it begins with CSP_POOL_FORWARD_AUTO. By fused, calls of
 * csp_sparse_pool_fwd that it is not for return CSP_ERR_UNSUPPORTED: f32, sum pooling, a width D
 * that is no multiple of 8, h or e that do not lie at a multiple of 16 bytes.
 *
 * Stream:     host only.
 * Errors:     CSP_ERR_UNSUPPORTED (a CPU, which has one way only; a device that cannot),
 *             CSP_ERR_ARGUMENT.
 */
CSP_CHECKED csp_status csp_sparse_pool_choose_forward(csp_backend *be, csp_pool_forward way);

#ifdef __cplusplus
}
#endif

/*
 * What cuSPARSE may take for its own work, beside the scratch memory of all ops. NVIDIA does not
 * say how much that is, and asking needs the library, a device and the very matrices: so there is a
 * limit, which a plan can count, of 32 bytes for each of the 8 Mi entries of a product.
 */
#define CSP_POOL_CUSPARSE_BYTES ((size_t)256 << 20)
