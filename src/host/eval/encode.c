/* encode.c - texts wait until a micro-batch is full, then go through the model together. */
#include "eval/encode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/batch.h"
#include "eval/quantize.h"
#include "model/contract_head.h"
#include "model/finite.h"

/* Texts of a micro-batch: bounds the worst case of the sparse rows, TEXTS x vocabulary. */
enum { TEXTS = 256, STANDARD_ROWS = 4096 };

struct csp_encoder {
    csp_backend *be;
    const csp_model *model;
    const csp_contract *contract;
    csp_encoder_options options;
    csp_text_encoder *texts;
    csp_side side;
    csp_encoded_row emit;
    void *context;
    csp_token_list ids;    /* of one text */
    csp_token_lists lists; /* that wait */
    char *names[TEXTS];
    int64_t waiting_rows;
    int64_t done_rows;
    csp_batch batch;
    csp_run *run;
    csp_arena step; /* activations of one micro-batch */
    csp_arena rows; /* sparse rows */
    csp_contract_head head;
    csp_sparse w;
    int64_t row_ptr[TEXTS + 1];
    int32_t *term; /* host copies of a micro-batch's rows */
    float *weight;
    int64_t host_room;
};

static csp_status place_rows(csp_encoder *e, int64_t V, csp_arena *arena)
{
    const int64_t starts[] = { TEXTS + 1 }, cap[] = { TEXTS * V };

    e->w.vocab = V;
    CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, starts, &e->w.row_ptr));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, cap, &e->w.term));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, cap, &e->w.weight));
    return csp_arena_tensor(arena, CSP_I32, 1, cap, &e->w.argmax);
}

/* Device tensors of a packed batch, then the run's; on a ruler this measures. */
static csp_status place_step(csp_encoder *e, int64_t B, int64_t N, csp_arena *arena, csp_pack *pack,
                             csp_tensor *keep)
{
    const int64_t starts[] = { B + 1 }, texts[] = { B };

    pack->row_key = csp_tensor_none();
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &N, &pack->token));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, starts, &pack->seq_start));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, texts, &pack->order));
    CSP_TRY(csp_arena_tensor(arena, CSP_U8, 1, &N, keep));
    return csp_run_place(e->run, N, arena);
}

static int64_t rows_at_once(int64_t max_rows, int64_t longest)
{
    const int64_t rows = max_rows > 0 ? max_rows : STANDARD_ROWS;

    return rows > longest ? rows : longest;
}

csp_status csp_encoder_bytes(const csp_params *params, int64_t max_rows, int64_t longest,
                             size_t *out)
{
    csp_encoder e = { 0 };
    csp_arena step = { 0 }, rows = { 0 };
    csp_tensor keep;
    csp_pack pack;
    csp_status status;

    CSP_TRY_GOTO(csp_run_create(params, CSP_KEEP_NOTHING, &e.run));
    CSP_TRY_GOTO(place_step(&e, TEXTS, rows_at_once(max_rows, longest), &step, &pack, &keep));
    CSP_TRY_GOTO(place_rows(&e, params->config.V, &rows));
    *out = step.peak + rows.peak;

fail:
    csp_run_destroy(e.run);
    return status;
}

csp_status csp_encoder_create(csp_backend *be, const csp_model *model, const csp_contract *contract,
                              const csp_tokenizer *tokenizer, const csp_encoder_options *options,
                              csp_encoder **out)
{
    csp_encoder *e;
    csp_arena ruler = { 0 };
    csp_pack pack;
    csp_tensor keep;
    csp_status status;

    CSP_TRY(csp_alloc_zero("encoder", 1, sizeof(*e), &e));
    e->be = be;
    e->model = model;
    e->contract = contract;
    e->options = *options;
    e->options.max_rows = rows_at_once(options->max_rows, model->max_len);
    CSP_TRY_GOTO(csp_text_encoder_create(contract, tokenizer, options->strict, &e->texts));
    CSP_TRY_GOTO(csp_contract_head_open(be, model, contract, &e->head));
    CSP_TRY_GOTO(csp_run_create(model->params, CSP_KEEP_NOTHING, &e->run));
    CSP_TRY_GOTO(place_step(e, TEXTS, e->options.max_rows, &ruler, &pack, &keep));
    CSP_TRY_GOTO(csp_backend_reserve(be, ruler.peak, &e->step));
    ruler = (csp_arena) { 0 };
    CSP_TRY_GOTO(place_rows(e, model->params->config.V, &ruler));
    CSP_TRY_GOTO(csp_backend_reserve(be, ruler.peak, &e->rows));
    CSP_TRY_GOTO(place_rows(e, model->params->config.V, &e->rows));
    *out = e;
    return CSP_OK;

fail:
    csp_encoder_destroy(e);
    return status;
}

static void forget(csp_encoder *e)
{
    for (int64_t i = 0; i < e->lists.count; i++) {
        free(e->names[i]);
    }
    csp_token_lists_reset(&e->lists);
    e->waiting_rows = 0;
}

void csp_encoder_destroy(csp_encoder *e)
{
    if (e == NULL) {
        return;
    }
    forget(e);
    csp_token_lists_clear(&e->lists);
    csp_token_list_clear(&e->ids);
    csp_batch_clear(&e->batch);
    csp_run_destroy(e->run);
    csp_backend_release(e->be, &e->step);
    csp_backend_release(e->be, &e->rows);
    csp_contract_head_close(&e->head);
    csp_text_encoder_destroy(e->texts);
    free(e->term);
    free(e->weight);
    free(e);
}

void csp_encoder_target(csp_encoder *e, csp_side side, csp_encoded_row emit, void *context)
{
    CSP_ASSERT(e->lists.count == 0);
    e->side = side;
    e->emit = emit;
    e->context = context;
}

/* Pooling passes over a NaN, so the text that has one is named here. */
static csp_status check_hidden(const csp_encoder *e)
{
    int64_t row, text = 0;
    char parameter[CSP_PARAM_NAME_BYTES + 32];

    CSP_TRY(csp_run_find_bad_row(e->model, e->run, &row));
    if (row < 0) {
        return CSP_OK;
    }
    while (text + 1 < e->batch.B && e->batch.seq_start[text + 1] <= row) {
        text++;
    }
    csp_model_say_bad_parameter(e->model, parameter, sizeof(parameter));
    return CSP_FAIL(CSP_ERR_NUMERIC, "text %s: its hidden states are not finite%s", e->names[text],
                    parameter);
}

/* Runs the waiting texts through the model; the rows are in e->w. */
static csp_status compute(csp_encoder *e)
{
    const csp_pass pass = { .causal = e->contract->variant != CSP_VARIANT_BI };
    csp_pool_texts texts;
    csp_pack pack;

    CSP_TRY(csp_batch_pack(e->contract, &e->lists, 0, e->lists.count, 0, &e->batch));
    e->step.used = 0;
    CSP_TRY(place_step(e, e->batch.B, e->batch.N, &e->step, &pack, &texts.keep));
    CSP_TRY(csp_backend_upload(e->be, e->batch.tokens, &pack.token));
    CSP_TRY(csp_backend_upload(e->be, e->batch.seq_start, &pack.seq_start));
    CSP_TRY(csp_backend_upload(e->be, e->batch.order, &pack.order));
    CSP_TRY(csp_backend_upload(e->be, e->batch.keep, &texts.keep));
    pack.longest = e->batch.max_len;
    texts.seq_start = pack.seq_start;
    texts.kept = e->batch.kept;
    texts.longest = e->batch.max_len;
    /* Empty texts alone make no rows: there is nothing to run, and their vectors are empty. */
    if (e->batch.N > 0) {
        CSP_TRY(csp_model_fwd(e->model, &pack, &pass, e->run));
        CSP_TRY(check_hidden(e));
    }
    CSP_TRY(csp_sparse_pool_fwd(e->be, &e->head.head, &e->run->h, &texts, 0, &e->w));
    e->done_rows += e->batch.N;
    return CSP_OK;
}

static csp_status fetch(csp_encoder *e)
{
    csp_tensor part = csp_tensor_rows(&e->w.row_ptr, 0, e->lists.count + 1);
    int64_t nnz;

    CSP_TRY(csp_backend_download(e->be, &part, e->row_ptr));
    nnz = e->row_ptr[e->lists.count];
    if (nnz > e->host_room) {
        CSP_TRY(csp_realloc("encoder", nnz, sizeof(int32_t), &e->term));
        CSP_TRY(csp_realloc("encoder", nnz, sizeof(float), &e->weight));
        e->host_room = nnz;
    }
    if (nnz > 0) {
        part = csp_tensor_rows(&e->w.term, 0, nnz);
        CSP_TRY(csp_backend_download(e->be, &part, e->term));
        part = csp_tensor_rows(&e->w.weight, 0, nnz);
        CSP_TRY(csp_backend_download(e->be, &part, e->weight));
    }
    return CSP_OK;
}

csp_status csp_encoder_flush(csp_encoder *e)
{
    const int64_t cut =
        e->options.top_k >= 0 ? e->options.top_k : csp_contract_top_k(e->contract, e->side);

    if (e->lists.count == 0) {
        return CSP_OK;
    }
    CSP_TRY(compute(e));
    CSP_TRY(fetch(e));
    for (int64_t i = 0; i < e->lists.count; i++) {
        int32_t *term = e->term + e->row_ptr[i];
        float *weight = e->weight + e->row_ptr[i];
        int64_t nnz = e->row_ptr[i + 1] - e->row_ptr[i];

        for (int64_t j = 0; j < nnz; j++) {
            if (!isfinite(weight[j])) {
                return CSP_FAIL(CSP_ERR_NUMERIC, "text %s: the weight of term %d is not finite",
                                e->names[i], (int)term[j]);
            }
        }
        if (cut > 0) {
            nnz = csp_prune_row(term, weight, nnz, cut);
        }
        CSP_TRY(e->emit(e->context, e->names[i], nnz, term, weight));
    }
    forget(e);
    return CSP_OK;
}

csp_status csp_encoder_add(csp_encoder *e, const char *id, const char *text, int64_t bytes)
{
    int64_t rows;

    CSP_TRY(csp_text_encode(e->texts, e->side, id, text, bytes, &e->ids));
    rows = csp_contract_text_rows(e->contract, e->ids.count);
    if (e->lists.count == TEXTS || e->waiting_rows + rows > e->options.max_rows) {
        CSP_TRY(csp_encoder_flush(e));
    }
    CSP_TRY(csp_strdup("encoder", id, &e->names[e->lists.count]));
    if (csp_token_lists_add(&e->lists, e->ids.ids, e->ids.count) != CSP_OK) {
        free(e->names[e->lists.count]);
        return CSP_ERR_MEMORY;
    }
    e->waiting_rows += rows;
    return CSP_OK;
}

const csp_text_counts *csp_encoder_counts(const csp_encoder *e, csp_side side)
{
    return csp_text_encoder_counts(e->texts, side);
}

int64_t csp_encoder_rows(const csp_encoder *e)
{
    return e->done_rows;
}

void csp_encoder_bits(const csp_encoder *e, int *threads, int64_t *max_rows)
{
    *threads = e->be->threads;
    *max_rows = e->options.max_rows;
}

csp_status csp_vectors_build_row(void *context, const char *id, int64_t nnz, const int32_t *term,
                                 const float *weight)
{
    csp_vectors_build *b = context;
    csp_vectors *v = &b->v;
    const int64_t at = v->rows > 0 ? v->row_ptr[v->rows] : 0;

    if (v->rows + 1 > b->row_room) {
        const int64_t room = b->row_room > 0 ? 2 * b->row_room : 1024;

        CSP_TRY(csp_realloc("vectors", room + 1, sizeof(int64_t), &v->row_ptr));
        CSP_TRY(csp_realloc("vectors", room, sizeof(char *), &v->ids));
        b->row_room = room;
        v->row_ptr[0] = 0;
    }
    if (at + nnz > b->entry_room) {
        const int64_t room = 2 * (at + nnz) + 1024;

        CSP_TRY(csp_realloc("vectors", room, sizeof(int32_t), &v->term));
        CSP_TRY(csp_realloc("vectors", room, sizeof(float), &v->weight));
        b->entry_room = room;
    }
    CSP_TRY(csp_strdup("vectors", id, &v->ids[v->rows]));
    if (nnz > 0) {
        memcpy(v->term + at, term, (size_t)nnz * sizeof(*term));
        memcpy(v->weight + at, weight, (size_t)nnz * sizeof(*weight));
    }
    v->row_ptr[++v->rows] = at + nnz;
    return CSP_OK;
}

void csp_vectors_build_clear(csp_vectors_build *b)
{
    for (int64_t i = 0; i < b->v.rows; i++) {
        free(b->v.ids[i]);
    }
    free(b->v.ids);
    free(b->v.row_ptr);
    free(b->v.term);
    free(b->v.weight);
    memset(b, 0, sizeof(*b));
}
