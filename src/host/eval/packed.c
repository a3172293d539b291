/* packed.c - the tensors of a packed batch, placed and filled in one place. */
#include "eval/packed.h"

csp_status csp_packed_place(int64_t B, int64_t N, bool train, csp_arena *arena, csp_packed *out)
{
    const int64_t starts = B + 1;
    csp_packed p = { .pack.row_key = csp_tensor_none(), .target = csp_tensor_none() };

    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &N, &p.pack.token));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &starts, &p.pack.seq_start));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &B, &p.pack.order));
    CSP_TRY(csp_arena_tensor(arena, CSP_U8, 1, &N, &p.texts.keep));
    if (train) {
        CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, &N, &p.pack.row_key));
        CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &N, &p.target));
    }
    *out = p;
    return CSP_OK;
}

csp_status csp_packed_upload(csp_backend *be, const csp_batch *batch, csp_packed *p)
{
    CSP_TRY(csp_backend_upload(be, batch->tokens, &p->pack.token));
    CSP_TRY(csp_backend_upload(be, batch->seq_start, &p->pack.seq_start));
    CSP_TRY(csp_backend_upload(be, batch->order, &p->pack.order));
    p->texts.keep = csp_tensor_rows(&p->texts.keep, 0, batch->N);
    CSP_TRY(csp_backend_upload(be, batch->keep, &p->texts.keep));
    if (p->target.ndim > 0) {
        CSP_TRY(csp_backend_upload(be, batch->row_key, &p->pack.row_key));
        p->target = csp_tensor_rows(&p->target, 0, batch->N);
        CSP_TRY(csp_backend_upload(be, batch->target, &p->target));
    }
    p->pack.longest = batch->longest;
    p->texts.seq_start = csp_tensor_rows(&p->pack.seq_start, 0, batch->B + 1);
    p->texts.kept = batch->kept;
    p->texts.longest = batch->max_len;
    return CSP_OK;
}
