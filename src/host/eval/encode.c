/*
 * encode.c - texts wait until a micro-batch is full, then go through the model together. While the
 * device computes one micro-batch, the host brings over, and hands out, the rows of the one before,
 * and makes tokens of the texts of the next.
 */
#include "eval/encode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "eval/kept_rows.h"
#include "eval/packed.h"
#include "model/contract_head.h"
#include "model/finite.h"

/* Texts of a micro-batch: bounds the worst case of the sparse rows, TEXTS x vocabulary. */
enum { TEXTS = 256, STANDARD_ROWS = 4096 };

/* Texts that go through the model together. */
typedef struct micro_batch {
    csp_batch batch;
    char *names[TEXTS];
    int64_t count; /* of texts, 0: nothing is under way */
} micro_batch;

struct csp_encoder {
    csp_backend *be;
    const csp_model *model;
    const csp_contract *contract;
    csp_encoder_options options;
    csp_text_encoder *texts;
    csp_side side;
    csp_encoded_row emit;
    void *context;
    csp_token_list ids;     /* of one text */
    csp_token_lists lists;  /* that wait   */
    micro_batch micro[2];   /* one waits for texts while the other is computed */
    micro_batch *waiting;   /* its texts are those of lists                    */
    micro_batch *computing; /* its rows come next                              */
    int64_t waiting_rows;
    int64_t done_rows;
    csp_quant_counts quantised;
    csp_run *run;
    csp_arena step; /* activations of one micro-batch */
    csp_contract_head head;
    csp_kept_rows *kept;
};

/* The cut of a side's vectors, 0: none. */
static int64_t cut_of(const csp_encoder_options *options, const csp_contract *contract,
                      csp_side side)
{
    return options->top_k >= 0 ? options->top_k : csp_contract_top_k(contract, side);
}

/*
 * Device tensors of B texts and N rows, padding among them, then the run's activations; on a ruler
 * this measures.
 */
static csp_status place_step(csp_encoder *e, int64_t B, int64_t N, csp_arena *arena,
                             csp_packed *packed)
{
    CSP_TRY(csp_packed_place(B, N, false, arena, packed));
    return csp_run_place(e->run, N, arena);
}

/* Of a micro-batch of up to `rows` rows: measures. */
static csp_status place_most(csp_encoder *e, int64_t rows, csp_arena *ruler)
{
    csp_packed packed;

    return place_step(e, csp_batch_padded_texts(TEXTS, rows), csp_batch_padded_rows(rows), ruler,
                      &packed);
}

static int64_t rows_at_once(int64_t max_rows, int64_t longest)
{
    const int64_t rows = max_rows > 0 ? max_rows : STANDARD_ROWS;

    return rows > longest ? rows : longest;
}

csp_status csp_encoder_bytes(const csp_params *params, int64_t max_rows, int64_t longest,
                             int64_t top_k, size_t *out)
{
    const csp_kept_limits limits = { .texts = TEXTS, .top_k = top_k };
    csp_encoder e = { 0 };
    csp_arena step = { 0 };
    size_t rows;
    csp_status status;

    CSP_TRY_GOTO(csp_run_create(params, CSP_KEEP_NOTHING, &e.run));
    CSP_TRY_GOTO(place_most(&e, rows_at_once(max_rows, longest), &step));
    CSP_TRY_GOTO(csp_kept_rows_bytes(params, &limits, &rows));
    *out = step.peak + rows;

fail:
    csp_run_destroy(e.run);
    return status;
}

csp_status csp_encoder_create(csp_backend *be, const csp_model *model, const csp_contract *contract,
                              const csp_tokenizer *tokenizer, const csp_encoder_options *options,
                              csp_encoder **out)
{
    const int64_t cut_q = cut_of(options, contract, CSP_SIDE_QUERY);
    const int64_t cut_p = cut_of(options, contract, CSP_SIDE_PASSAGE);
    const csp_kept_limits limits = { .texts = TEXTS,
                                     .top_k = cut_q > cut_p ? cut_q : cut_p,
                                     .quant = options->quant };
    csp_encoder *e;
    csp_arena ruler = { 0 };
    csp_status status;

    CSP_TRY(csp_alloc_zero("encoder", 1, sizeof(*e), &e));
    e->be = be;
    e->model = model;
    e->contract = contract;
    e->options = *options;
    e->options.max_rows = rows_at_once(options->max_rows, model->max_len);
    e->waiting = &e->micro[0];
    e->computing = &e->micro[1];
    CSP_TRY_GOTO(csp_text_encoder_create(contract, tokenizer, options->strict, &e->texts));
    CSP_TRY_GOTO(csp_contract_head_open(be, model, contract, &e->head));
    CSP_TRY_GOTO(csp_run_create(model->params, CSP_KEEP_NOTHING, &e->run));
    CSP_TRY_GOTO(place_most(e, e->options.max_rows, &ruler));
    CSP_TRY_GOTO(csp_backend_reserve(be, ruler.peak, &e->step));
    CSP_TRY_GOTO(csp_kept_rows_create(be, model->params, &limits, &e->kept));
    *out = e;
    return CSP_OK;

fail:
    csp_encoder_destroy(e);
    return status;
}

static void forget(micro_batch *m)
{
    for (int64_t i = 0; i < m->count; i++) {
        free(m->names[i]);
    }
    m->count = 0;
}

void csp_encoder_destroy(csp_encoder *e)
{
    if (e == NULL) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        forget(&e->micro[i]);
        csp_batch_clear(&e->micro[i].batch);
    }
    csp_token_lists_clear(&e->lists);
    csp_token_list_clear(&e->ids);
    csp_run_destroy(e->run);
    csp_kept_rows_destroy(e->kept);
    csp_backend_release(e->be, &e->step);
    csp_contract_head_close(&e->head);
    csp_text_encoder_destroy(e->texts);
    free(e);
}

void csp_encoder_target(csp_encoder *e, csp_side side, csp_encoded_row emit, void *context)
{
    CSP_ASSERT(e->waiting->count == 0 && e->computing->count == 0);
    e->side = side;
    e->emit = emit;
    e->context = context;
}

/* A NaN here may be one in all of a vector: the text and what may have caused it are named. */
static csp_status say_bad_hidden(const csp_encoder *e, const micro_batch *m, int64_t row)
{
    const int64_t text = csp_batch_text_of(&m->batch, &row);
    char parameter[CSP_PARAM_NAME_BYTES + 32];

    csp_model_say_bad_parameter(e->model, parameter, sizeof(parameter));
    return CSP_FAIL(CSP_ERR_NUMERIC, "text %s: its hidden states are not finite%s", m->names[text],
                    parameter);
}

/* Every hidden state is finite, but a logit is not. */
static csp_status say_bad_weight(const csp_encoder *e, const char *name, int32_t term)
{
    char parameter[CSP_PARAM_NAME_BYTES + 32];

    csp_model_say_bad_parameter(e->model, parameter, sizeof(parameter));
    return CSP_FAIL(CSP_ERR_NUMERIC, "text %s: the weight of term %d is not finite%s", name,
                    (int)term, parameter);
}

/* Enqueues the hidden states of the texts that wait. */
static csp_status start_hidden(csp_encoder *e, csp_batch *batch, csp_packed *packed)
{
    const csp_pass pass = { .causal = e->contract->variant != CSP_VARIANT_BI };

    CSP_TRY(csp_batch_pack(e->contract, &e->lists, 0, e->lists.count, NULL, 0, batch));
    if (e->be->replays) {
        CSP_TRY(csp_batch_pad(batch, e->model->max_len));
    }
    e->step.used = 0;
    CSP_TRY(place_step(e, batch->texts, batch->rows, &e->step, packed));
    csp_run_cut(e->run, batch->N);
    CSP_TRY(csp_packed_upload(e->be, batch, packed));
    /* Empty texts alone make no rows: there is nothing to run, and their vectors are empty. */
    return batch->N > 0 ? csp_model_fwd(e->model, &packed->pack, &pass, e->run) : CSP_OK;
}

/* Hands out the rows of a micro-batch, which are on the host. */
static csp_status hand_out(csp_encoder *e, micro_batch *m, const csp_fetched_rows *rows)
{
    if (rows->bad_row >= 0) {
        return say_bad_hidden(e, m, rows->bad_row);
    }
    for (int64_t i = 0; i < m->count; i++) {
        const int64_t from = rows->row_ptr[i], nnz = rows->row_ptr[i + 1] - from;

        for (int64_t j = from; j < from + nnz; j++) {
            if (!isfinite(rows->weight[j])) {
                return say_bad_weight(e, m->names[i], rows->term[j]);
            }
        }
        CSP_TRY(e->emit(e->context, m->names[i], nnz, rows->term + from, rows->weight + from));
    }
    e->quantised.kept += rows->counts.kept;
    e->quantised.dropped += rows->counts.dropped;
    e->quantised.clipped += rows->counts.clipped;
    forget(m);
    return CSP_OK;
}

/*
 * Starts the texts that wait, and finishes those before: their rows are fetched while the device is
 * busy with hidden states, and handed out while it is busy with all of it.
 */
static csp_status turn_over(csp_encoder *e)
{
    const int64_t cut = cut_of(&e->options, e->contract, e->side);
    micro_batch *next = e->waiting, *last = e->computing;
    csp_fetched_rows rows = { 0 };
    csp_packed packed;

    CSP_TRY(start_hidden(e, &next->batch, &packed));
    if (last->count > 0) {
        CSP_TRY(csp_kept_rows_fetch(e->kept, &rows));
    }
    CSP_TRY(csp_kept_rows_pool(e->kept, e->model, &e->head.head, e->run, &packed.texts, cut));
    csp_token_lists_reset(&e->lists);
    e->waiting_rows = 0;
    e->done_rows += next->batch.N;
    e->waiting = last;
    e->computing = next;
    return last->count > 0 ? hand_out(e, last, &rows) : CSP_OK;
}

csp_status csp_encoder_flush(csp_encoder *e)
{
    csp_fetched_rows rows;

    if (e->waiting->count > 0) {
        CSP_TRY(turn_over(e));
    }
    if (e->computing->count == 0) {
        return CSP_OK;
    }
    CSP_TRY(csp_kept_rows_fetch(e->kept, &rows));
    return hand_out(e, e->computing, &rows);
}

csp_status csp_encoder_add(csp_encoder *e, const char *id, const char *text, int64_t bytes)
{
    int64_t rows;

    CSP_TRY(csp_text_encode(e->texts, e->side, id, text, bytes, &e->ids));
    rows = csp_contract_text_rows(e->contract, e->ids.count);
    if (e->waiting->count == TEXTS ||
        (e->waiting->count > 0 && e->waiting_rows + rows > e->options.max_rows)) {
        CSP_TRY(turn_over(e));
    }
    CSP_TRY(csp_strdup("encoder", id, &e->waiting->names[e->waiting->count]));
    if (csp_token_lists_add(&e->lists, e->ids.ids, e->ids.count) != CSP_OK) {
        free(e->waiting->names[e->waiting->count]);
        return CSP_ERR_MEMORY;
    }
    e->waiting->count++;
    e->waiting_rows += rows;
    return CSP_OK;
}

const csp_text_counts *csp_encoder_counts(const csp_encoder *e, csp_side side)
{
    return csp_text_encoder_counts(e->texts, side);
}

const csp_quant_counts *csp_encoder_quant_counts(const csp_encoder *e)
{
    return &e->quantised;
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
