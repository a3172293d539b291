/* exchange.c - an all-gather of sparse rows, and a reduce-scatter of their gradients. */
#include "train/exchange.h"

#include <stdlib.h>

#include "core/memory.h"

csp_status csp_exchange_place(csp_exchange *x, int64_t vocab, csp_arena *arena)
{
    const int64_t starts = x->queries + 1, cap = x->queries * vocab;

    if (csp_ranks_size(x->ranks) == 1) {
        return CSP_OK;
    }
    x->all.vocab = vocab;
    CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, &starts, &x->all.row_ptr));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &cap, &x->all.term));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, &cap, &x->all.weight));
    return csp_arena_tensor(arena, CSP_F32, 1, &cap, &x->dw);
}

csp_status csp_exchange_open(csp_backend *be, const csp_ranks *ranks, int64_t queries,
                             csp_exchange *out)
{
    static const char what[] = "queries of all ranks";
    csp_exchange x = { .ranks = ranks, .be = be, .queries = queries };
    csp_status status;

    if (csp_ranks_size(ranks) > 1) {
        CSP_TRY_GOTO(csp_alloc(what, queries + 1, sizeof(*x.row_ptr), &x.row_ptr));
        CSP_TRY_GOTO(csp_alloc(what, queries, sizeof(*x.lengths), &x.lengths));
        CSP_TRY_GOTO(csp_alloc(what, ranks->size, sizeof(*x.entries), &x.entries));
    }
    *out = x;
    return CSP_OK;

fail:
    csp_exchange_close(&x);
    return status;
}

void csp_exchange_close(csp_exchange *x)
{
    free(x->row_ptr);
    free(x->lengths);
    free(x->entries);
    *x = (csp_exchange) { 0 };
}

csp_status csp_exchange_lengths(csp_exchange *x, const csp_sparse *own, int64_t rows,
                                const csp_tensor *dw)
{
    const int64_t starts = rows + 1;
    const csp_tensor row_ptr = csp_tensor_view(own->row_ptr.data, CSP_I64, 1, &starts);
    int64_t *mine;

    x->own = *own;
    x->rows = rows;
    if (csp_ranks_size(x->ranks) == 1) {
        x->all = *own;
        x->dw = *dw;
        return CSP_OK;
    }
    CSP_TRY(csp_backend_download(x->be, &row_ptr, x->row_ptr));
    mine = x->lengths + csp_ranks_rank(x->ranks) * rows;
    for (int64_t q = 0; q < rows; q++) {
        mine[q] = x->row_ptr[q + 1] - x->row_ptr[q];
    }
    for (int r = 0; r < x->ranks->size; r++) {
        x->entries[r] = rows * (int64_t)sizeof(*mine);
    }
    return csp_comm_gather_start(x->ranks->comm, mine, x->lengths, x->entries, "lengths of queries",
                                 &x->ticket);
}

/* A view of so many elements of t. */
static csp_tensor front(const csp_tensor *t, int64_t count)
{
    return csp_tensor_view(t->data, t->dtype, 1, &count);
}

csp_status csp_exchange_entries(csp_exchange *x)
{
    const int ranks = csp_ranks_size(x->ranks);
    const int64_t queries = ranks * x->rows, starts = queries + 1;
    csp_tensor row_ptr, term, weight, all_term, all_weight;

    if (ranks == 1) {
        return CSP_OK;
    }
    CSP_TRY(csp_comm_wait(x->ranks->comm, x->ticket));
    x->row_ptr[0] = 0;
    for (int r = 0; r < ranks; r++) {
        for (int64_t q = r * x->rows; q < (r + 1) * x->rows; q++) {
            x->row_ptr[q + 1] = x->row_ptr[q] + x->lengths[q];
        }
        x->entries[r] = x->row_ptr[(r + 1) * x->rows] - x->row_ptr[r * x->rows];
    }
    x->all.active = (double)x->row_ptr[queries] / (double)queries;
    row_ptr = csp_tensor_view(x->all.row_ptr.data, CSP_I64, 1, &starts);
    CSP_TRY(csp_backend_upload(x->be, x->row_ptr, &row_ptr));
    term = front(&x->own.term, x->entries[x->ranks->rank]);
    weight = front(&x->own.weight, x->entries[x->ranks->rank]);
    all_term = front(&x->all.term, x->row_ptr[queries]);
    all_weight = front(&x->all.weight, x->row_ptr[queries]);
    CSP_TRY(csp_ranks_gather_start(x->ranks, &term, &all_term, x->entries, "terms of queries",
                                   &x->term));
    return csp_ranks_gather_start(x->ranks, &weight, &all_weight, x->entries, "weights of queries",
                                  &x->weight);
}

csp_status csp_exchange_arrive(csp_exchange *x)
{
    CSP_TRY(csp_ranks_finish(x->ranks, &x->term));
    return csp_ranks_finish(x->ranks, &x->weight);
}

csp_status csp_exchange_return(csp_exchange *x, csp_tensor *dw)
{
    csp_tensor data, out;

    if (csp_ranks_size(x->ranks) == 1) {
        return CSP_OK;
    }
    data = front(&x->dw, x->row_ptr[x->ranks->size * x->rows]);
    out = front(dw, x->entries[x->ranks->rank]);
    return csp_ranks_scatter_sum(x->ranks, &data, &out, x->entries, "gradients of queries");
}
