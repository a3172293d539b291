/* chunked.c - micro-batches in an arena: a kept prefix, and one place behind it for the others. */
#include "train/chunked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "model/finite.h"

csp_status csp_chunked_create(csp_backend *be, const csp_model *model, const csp_contract *contract,
                              int64_t max_rows, int64_t longest, int64_t texts, size_t budget,
                              csp_keep keep, csp_chunked **out)
{
    const int64_t most = max_rows > longest ? max_rows : longest;
    const int64_t rows = be->replays ? csp_batch_padded_rows(most) : most;
    const int64_t most_texts = be->replays ? csp_batch_padded_texts(texts, most) : texts;
    csp_chunked *c;
    size_t least;
    csp_status status;

    CSP_TRY(csp_alloc_zero("micro-batches", 1, sizeof(*c), &c));
    c->be = be;
    c->model = model;
    c->contract = contract;
    c->max_rows = max_rows;
    c->keep = keep == CSP_KEEP_NOTHING ? CSP_KEEP_ALL : keep;
    CSP_TRY_GOTO(csp_run_bytes(model->params, rows, c->keep, &least));
    /* Tokens, starts and order (empty texts are there too), keys, keep, target. */
    least += (size_t)rows * 17 + (size_t)(2 * most_texts + 1) * 4 + 6 * CSP_ARENA_ALIGN;
    CSP_TRY_GOTO(csp_backend_reserve(be, budget > least ? budget : least, &c->step));
    *out = c;
    return CSP_OK;

fail:
    csp_chunked_destroy(c);
    return status;
}

void csp_chunked_destroy(csp_chunked *c)
{
    if (c == NULL) {
        return;
    }
    for (int64_t i = 0; i < c->room; i++) {
        csp_batch_clear(&c->chunks[i].batch);
        csp_run_destroy(c->chunks[i].run);
    }
    csp_backend_release(c->be, &c->step);
    free(c->chunks);
    free(c->edges);
    free(c);
}

void csp_chunked_begin(csp_chunked *c)
{
    c->count = 0;
    c->kept = 0;
    c->whole = 0;
    c->step.used = 0;
}

/* Room for count chunks, each with its run; grows in the first steps only. */
static csp_status make_room(csp_chunked *c, int64_t count)
{
    if (count > c->room) {
        CSP_TRY(csp_realloc("micro-batches", count, sizeof(*c->chunks), &c->chunks));
        while (c->room < count) {
            csp_chunk fresh = { 0 };

            CSP_TRY(csp_run_create(c->model->params, c->keep, &fresh.run));
            c->chunks[c->room++] = fresh;
        }
    }
    return CSP_OK;
}

/* Takes the device tensors of a chunk from an arena; on a ruler this measures. */
static csp_status place(csp_chunk *chunk, csp_arena *arena)
{
    const csp_batch *batch = &chunk->batch;

    CSP_TRY(csp_packed_place(batch->texts, batch->rows, true, arena, &chunk->packed));
    CSP_TRY(csp_run_place(chunk->run, batch->rows, arena));
    csp_run_cut(chunk->run, batch->N);
    return CSP_OK;
}

/* Gives a chunk another form, and measures it. */
static csp_status set_form(csp_chunk *chunk, csp_keep form)
{
    csp_arena ruler = { 0 };

    chunk->form = form;
    chunk->run->keep = form;
    CSP_TRY(place(chunk, &ruler));
    chunk->bytes = ruler.peak;
    return CSP_OK;
}

static csp_status append(csp_chunked *c, csp_side side, const csp_token_lists *lists, bool adapt,
                         const int64_t *text, int64_t text_base)
{
    int64_t pieces;

    if (lists->count + 1 > c->edge_room) {
        CSP_TRY(csp_realloc("micro-batches", lists->count + 1, sizeof(*c->edges), &c->edges));
        c->edge_room = lists->count + 1;
    }
    csp_batch_split(adapt ? NULL : c->contract, lists, c->max_rows, c->edges, &pieces);
    CSP_TRY(make_room(c, c->count + pieces));
    for (int64_t i = 0; i < pieces; i++) {
        csp_chunk *chunk = &c->chunks[c->count];

        CSP_TRY(adapt ? csp_batch_pack_adapt(c->contract, lists, c->edges[i], c->edges[i + 1], text,
                                             text_base, &chunk->batch)
                      : csp_batch_pack(c->contract, lists, c->edges[i], c->edges[i + 1], text,
                                       text_base, &chunk->batch));
        if (c->be->replays) {
            CSP_TRY(csp_batch_pad(&chunk->batch, c->model->max_len));
        }
        chunk->side = side;
        chunk->first = c->edges[i];
        chunk->text_base = text_base;
        CSP_TRY(set_form(chunk, c->keep));
        c->count++;
    }
    return CSP_OK;
}

csp_status csp_chunked_add(csp_chunked *c, csp_side side, const csp_token_lists *lists,
                           const int64_t *text, int64_t text_base)
{
    return append(c, side, lists, false, text, text_base);
}

csp_status csp_chunked_add_adapt(csp_chunked *c, const csp_token_lists *lists, const int64_t *text)
{
    return append(c, CSP_SIDE_PASSAGE, lists, true, text, 0);
}

/* Marks the longest prefix as kept, in a form, that leaves room for rest bytes beside it. */
static csp_status keep_prefix(csp_chunked *c, csp_keep form, size_t rest, size_t *used)
{
    *used = 0;
    for (c->kept = 0; c->kept < c->count; c->kept++) {
        csp_chunk *chunk = &c->chunks[c->kept];

        CSP_TRY(set_form(chunk, form));
        if (*used + chunk->bytes + rest > c->step.capacity) {
            return set_form(chunk, c->keep);
        }
        *used += chunk->bytes;
    }
    return CSP_OK;
}

/* Gives kept chunks their gate and up back, the first ones first, as far as memory goes. */
static csp_status widen_prefix(csp_chunked *c, size_t rest, size_t used)
{
    for (c->whole = 0; c->whole < c->kept; c->whole++) {
        csp_chunk *chunk = &c->chunks[c->whole];
        const size_t narrow = chunk->bytes;

        CSP_TRY(set_form(chunk, CSP_KEEP_ALL));
        if (used - narrow + chunk->bytes + rest > c->step.capacity) {
            return set_form(chunk, CSP_KEEP_MOST);
        }
        used += chunk->bytes - narrow;
    }
    return CSP_OK;
}

/* A line for the first plan, and for others where lines of less weight are wanted too. */
static void say_plan(csp_chunked *c)
{
    const int64_t now[] = { c->kept, c->whole, c->count };

    if (memcmp(now, c->said, sizeof(now)) == 0) {
        return;
    }
    if (c->whole == c->count) {
        csp_log(c->said[2] == 0 ? CSP_LOG_INFO : CSP_LOG_DEBUG, "train",
                "a step of %lld micro-batches stays in memory between the passes",
                (long long)c->count);
    } else {
        csp_log(c->said[2] == 0 ? CSP_LOG_INFO : CSP_LOG_DEBUG, "train",
                "a step of %lld micro-batches: %lld stay in memory between the passes, %lld of "
                "them with all activations; the others are computed again, keeping %s",
                (long long)c->count, (long long)c->kept, (long long)c->whole,
                csp_keep_name(c->keep));
    }
    memcpy(c->said, now, sizeof(now));
}

csp_status csp_chunked_plan(csp_chunked *c)
{
    const bool narrow = c->keep != CSP_KEEP_INPUTS;
    size_t rest = 0, used = 0, total = 0;

    for (int64_t i = 0; i < c->count; i++) {
        total += c->chunks[i].bytes;
        rest = c->chunks[i].bytes > rest ? c->chunks[i].bytes : rest;
    }
    if (rest > c->step.capacity) {
        return CSP_FAIL(
            CSP_ERR_MEMORY,
            "a micro-batch needs %zu bytes for its activations, %zu are reserved: lower "
            "batch.micro_batch_tokens or set batch.recompute",
            rest, c->step.capacity);
    }
    if (total <= c->step.capacity) {
        c->kept = c->count;
        c->whole = c->keep == CSP_KEEP_ALL ? c->count : 0;
    } else {
        /* All of them in the narrow form need no place for others; else one place for the largest:
           simple, and at most one chunk short of the best. */
        CSP_TRY(keep_prefix(c, narrow ? CSP_KEEP_MOST : CSP_KEEP_INPUTS, 0, &used));
        if (c->kept < c->count) {
            CSP_TRY(keep_prefix(c, narrow ? CSP_KEEP_MOST : CSP_KEEP_INPUTS, rest, &used));
        }
        if (c->keep == CSP_KEEP_ALL) {
            CSP_TRY(widen_prefix(c, c->kept < c->count ? rest : 0, used));
        }
    }
    for (int64_t i = 0; i < c->count; i++) {
        c->chunks[i].kept = i < c->kept;
        CSP_TRY(i < c->kept ? CSP_OK : set_form(&c->chunks[i], c->keep));
    }
    say_plan(c);
    return CSP_OK;
}

csp_status csp_chunked_fwd(csp_chunked *c, int64_t i, const csp_pass *pass)
{
    csp_chunk *chunk = &c->chunks[i];

    chunk->mark = csp_arena_mark(&c->step);
    CSP_TRY(place(chunk, &c->step));
    CSP_TRY(csp_packed_upload(c->be, &chunk->batch, &chunk->packed));
    return chunk->batch.N > 0 ? csp_model_fwd(c->model, &chunk->packed.pack, pass, chunk->run)
                              : CSP_OK;
}

void csp_chunked_say_row(const csp_chunked *c, int64_t i, int64_t row, char *out, size_t bytes)
{
    const csp_chunk *chunk = &c->chunks[i];
    const int64_t text = chunk->batch.row_key[row] / CSP_ROW_KEY_TEXT - chunk->text_base;

    (void)csp_batch_text_of(&chunk->batch, &row);
    snprintf(out, bytes, "token %lld of %s %lld of the batch", (long long)row,
             chunk->side == CSP_SIDE_QUERY ? "query" : "text", (long long)text);
}

csp_status csp_chunked_check(const csp_chunked *c, int64_t i, int64_t bad_row, const char *phase,
                             int64_t step)
{
    char where[CSP_CHUNKED_WORDS], parameter[CSP_PARAM_NAME_BYTES + 32];

    if (bad_row < 0) {
        return CSP_OK;
    }
    csp_chunked_say_row(c, i, bad_row, where, sizeof(where));
    csp_model_say_bad_parameter(c->model, parameter, sizeof(parameter));
    return CSP_FAIL(CSP_ERR_NUMERIC, "%s step %lld: hidden states are not finite, first at %s%s",
                    phase, (long long)step, where, parameter);
}

csp_status csp_chunked_bwd(csp_chunked *c, int64_t i, const csp_pass *pass,
                           const csp_gradient_watch *watch)
{
    csp_chunk *chunk = &c->chunks[i];
    const csp_gradient_watch *last = i + 1 == c->count ? watch : NULL;

    return chunk->batch.N > 0 ? csp_model_bwd(c->model, &chunk->packed.pack, pass, chunk->run, last)
                              : csp_gradients_complete(last, -1);
}

void csp_chunked_leave(csp_chunked *c, int64_t i)
{
    if (!c->chunks[i].kept) {
        csp_arena_release(&c->step, c->chunks[i].mark);
    }
}

csp_status csp_chunked_again(csp_chunked *c, int64_t i, const csp_pass *pass)
{
    return c->chunks[i].kept ? CSP_OK : csp_chunked_fwd(c, i, pass);
}

int64_t csp_chunked_rows(const csp_chunked *c)
{
    int64_t rows = 0;

    for (int64_t i = 0; i < c->count; i++) {
        rows += c->chunks[i].batch.N;
    }
    return rows;
}
