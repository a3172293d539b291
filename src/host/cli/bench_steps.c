/*
 * bench_steps.c - S1, S4 to S8, M1: whole training steps and encoding, beside the ideal: the
 * arithmetic a step needs at the measured rate of a large product, and the bytes that fused
 * elementwise work moves at the measured bandwidth.
 *
 * Weights are random with the shapes of Llama; texts are random tokens without padding. Every step
 * has the same sizes, so that small ones (S8) are replayed as graphs where the device has them.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "core/memory.h"
#include "core/rng.h"
#include "eval/kept_rows.h"
#include "model/param_values.h"
#include "ops/graph.h"
#include "train/contrastive.h"
#include "train/optimizer.h"
#include "train/schedule.h"

/* Weights are a block of this many random numbers, repeated: a prime, so that no rows are alike. */
#define BLOCK 1048573
/* Terms of a text that S7 keeps. */
#define ENCODE_TERMS 512
/* Left of the device's memory for scratch and what the allocator cannot join. */
#define SPARE ((int64_t)3 << 30)

typedef struct step_bench {
    csp_bench_shape shape;
    csp_model *model;
    csp_contract contract;
    csp_token_lists queries, documents;
    int32_t *positive;
    csp_contrastive *contrastive;
    csp_optimizer *optimizer;
    int64_t step;
    csp_step_metrics m;
    bool kept; /* all activations are: nothing is computed again */
} step_bench;

static void close_step(step_bench *s)
{
    csp_optimizer_destroy(s->optimizer);
    csp_contrastive_destroy(s->contrastive);
    csp_token_lists_clear(&s->queries);
    csp_token_lists_clear(&s->documents);
    csp_contract_clear(&s->contract);
    csp_model_destroy(s->model);
    free(s->positive);
    memset(s, 0, sizeof(*s));
}

/* Texts of one length. */
static csp_status draw_texts(int64_t count, int64_t T, int64_t V, uint32_t key,
                             csp_token_lists *lists)
{
    const csp_rng rng = { 1, CSP_DRAW_TEST, key, 0 };
    int32_t *ids;
    csp_status status = CSP_OK;

    CSP_TRY(csp_alloc("bench", T, sizeof(*ids), &ids));
    for (int64_t i = 0; i < count && status == CSP_OK; i++) {
        for (int64_t j = 0; j < T; j++) {
            ids[j] = (int32_t)csp_rng_below(rng, (uint64_t)(i * T + j), (uint64_t)V);
        }
        status = csp_token_lists_add(lists, ids, T);
    }
    free(ids);
    return status;
}

/* Gains of norms are 1, all else normal with the standard deviation of Llama's initial weights. */
static csp_status fill_weights(csp_bench *b, csp_params *params)
{
    const csp_rng rng = { 1, CSP_DRAW_TEST, 21, 0 };
    float *values = NULL, *ones = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_alloc("bench", BLOCK, sizeof(*values), &values));
    CSP_TRY_GOTO(csp_alloc("bench", BLOCK, sizeof(*ones), &ones));
    for (int64_t i = 0; i < BLOCK; i++) {
        values[i] = 0.02f * csp_rng_normal(rng, (uint64_t)i);
        ones[i] = 1.0f;
    }
    for (int64_t i = 0; i < params->count; i++) {
        csp_param *row = &params->rows[i];
        const int64_t count = csp_tensor_count(&row->value);
        const bool gain = row->ndim == 1 && row->kind != CSP_PARAM_BIAS;

        /* A matrix in 8 bits by whole rows. */
        const int64_t block = row->scale.ndim > 0 ? BLOCK / row->dim[1] * row->dim[1] : BLOCK;

        for (int64_t first = 0; first < count; first += block) {
            const int64_t n = count - first < block ? count - first : block;

            CSP_TRY_GOTO(csp_param_upload(b->be, row, first, n, gain ? ones : values));
        }
    }
    status = CSP_OK;

fail:
    free(values);
    free(ones);
    return status;
}

static csp_status make_model(csp_bench *b, const csp_bench_shape *shape, csp_train_mode train,
                             csp_model **model)
{
    csp_model_config c = csp_model_config_standard(CSP_FAMILY_LLAMA);
    csp_model_options m = { .config = &c,
                            .train = train,
                            .storage = { .dtype = b->dtype },
                            .blank = true,
                            .max_len = 512 };

    m.storage.fp8 = shape->fp8;
    c.D = shape->D;
    c.F = shape->F;
    c.L = shape->L;
    c.H = shape->H;
    c.G = shape->G;
    c.E = shape->E;
    c.V = shape->V;
    c.max_position = 4096;
    c.tied = !shape->untied;
    c.initializer_range = 0.02;
    c.bos_id = c.pad_id = -1;
    c.eos_count = 0;
    CSP_TRY(csp_model_config_check(&c, "bench"));
    if (train == CSP_TRAIN_LORA) {
        m.lora = (csp_lora) { .R = CSP_BENCH_RANK, .alpha = 2 * CSP_BENCH_RANK };
        CSP_TRY(csp_lora_target(&m.lora, "all-linear"));
    }
    CSP_TRY(csp_model_create(b->be, &m, model));
    return fill_weights(b, (*model)->params);
}

static int64_t rows_of(const csp_bench_shape *s)
{
    return s->queries * s->query_tokens + s->documents * s->document_tokens;
}

/* What activations may take: all of them where they fit beside the representations. */
static csp_status plan_budget(csp_bench *b, step_bench *s, size_t *budget)
{
    const csp_bench_shape *shape = &s->shape;
    const int64_t rows = shape->micro_batch < rows_of(shape) ? shape->micro_batch : rows_of(shape);
    const int64_t batches = (rows_of(shape) + rows - 1) / rows + 2;
    csp_memory memory;
    size_t one, representations;
    int64_t room;

    CSP_TRY(csp_run_bytes(s->model->params, rows, CSP_KEEP_ALL, &one));
    CSP_TRY(
        csp_contrastive_bytes(shape->V, shape->queries, shape->documents, 1, 1, &representations));
    CSP_TRY(csp_backend_memory(b->be, &memory));
    room = memory.free - (int64_t)representations - (b->tiny ? 0 : SPARE);
    if (room < (int64_t)one) {
        return CSP_FAIL(CSP_ERR_MEMORY, "bench: %zu bytes for %lld token rows, %lld are left", one,
                        (long long)rows, (long long)room);
    }
    s->kept = room / (int64_t)one >= batches;
    *budget = s->kept ? (size_t)batches * one : (size_t)room;
    return CSP_OK;
}

/* A model, its texts, and what trains it. */
static csp_status open_step(csp_bench *b, const csp_bench_shape *shape, step_bench *s)
{
    csp_contrastive_options o = { .queries = shape->queries,
                                  .passages = shape->documents,
                                  .max_rows = shape->micro_batch,
                                  .temperature = 20.0,
                                  .limits = { 1.01, 1.01, 1.01 } };

    s->shape = *shape;
    CSP_TRY(csp_contract_init(&s->contract));
    CSP_TRY(draw_texts(shape->queries, shape->query_tokens, shape->V, 1, &s->queries));
    CSP_TRY(draw_texts(shape->documents, shape->document_tokens, shape->V, 2, &s->documents));
    CSP_TRY(csp_alloc("bench", shape->queries, sizeof(*s->positive), &s->positive));
    for (int64_t q = 0; q < shape->queries; q++) {
        s->positive[q] = (int32_t)(q * (shape->documents / shape->queries));
    }
    CSP_TRY(make_model(b, shape, shape->lora ? CSP_TRAIN_LORA : CSP_TRAIN_FULL, &s->model));
    CSP_TRY(plan_budget(b, s, &o.budget));
    CSP_TRY(csp_contrastive_create(b->be, s->model, &s->contract, &o, &s->contrastive));
    CSP_TRY(csp_optimizer_create(b->be, s->model, NULL, &s->optimizer));
    return csp_optimizer_reset(s->optimizer);
}

static csp_status run_step(csp_bench *b, void *context)
{
    static const csp_optim_settings optim = { .learning_rate = 1e-5,
                                              .lr_scheduler_type = CSP_LR_CONSTANT,
                                              .adam_beta1 = 0.9,
                                              .adam_beta2 = 0.999,
                                              .adam_epsilon = 1e-8,
                                              .max_grad_norm = 1.0 };
    step_bench *s = context;
    const csp_contrastive_texts texts = { .queries = &s->queries,
                                          .passages = &s->documents,
                                          .positive = s->positive };
    const csp_contrastive_step step = {
        .step = ++s->step, .lambda_q = 1e-3, .lambda_d = 1e-3, .pass = { .causal = true }
    };
    csp_tensor faults;

    csp_step_metrics_clear(&s->m, "bench", s->step, 1 << 20);
    CSP_TRY(csp_contrastive_run(s->contrastive, &texts, &step));
    faults = csp_contrastive_faults(s->contrastive);
    CSP_TRY(csp_optimizer_step(s->optimizer, &optim, s->step, 1 << 20, &faults));
    CSP_TRY(csp_backend_sync(b->be));
    CSP_TRY(csp_contrastive_read(s->contrastive, &s->m));
    csp_optimizer_read(s->optimizer, &s->m);
    return CSP_OK;
}

/*
 * The least a step can take: products at the measured rate; what fused kernels read and write of
 * activations, 28 D + 10 KV + 8 F elements for each token and layer; AdamW, 32 bytes a parameter.
 */
static double ideal_seconds(const csp_bench *b, const step_bench *s, double flop)
{
    const csp_bench_shape *shape = &s->shape;
    const double KV = (double)(shape->G * shape->E);
    const double elements = (double)rows_of(shape) * (double)shape->L *
                            (28.0 * (double)shape->D + 10.0 * KV + 8.0 * (double)shape->F);
    int64_t trained;

    csp_params_elements(s->model->params, NULL, &trained);
    return flop / b->product +
           (elements * (double)csp_dtype_bytes(b->dtype) + 32.0 * (double)trained) / b->copy;
}

/* Prints a row; where beside is not 0, also how many times faster it was than that many seconds. */
static csp_status bench_step(csp_bench *b, const char *name, const csp_bench_shape *shape,
                             double beside, double *seconds)
{
    step_bench s = { .step = 0 };
    csp_bench_time time;
    csp_memory memory;
    double flop, ideal, entries;
    const int64_t replayed = b->be->replayed;
    int64_t trained;
    csp_status status;

    CSP_TRY_GOTO(open_step(b, shape, &s));
    CSP_TRY_GOTO(csp_bench_measure(b, run_step, &s, &time));
    CSP_TRY_GOTO(csp_backend_memory(b->be, &memory));
    flop = csp_contrastive_flop(s.contrastive);
    ideal = ideal_seconds(b, &s, flop);
    csp_bench_print(
        b, name, shape->what, &time,
        (csp_bench_figure[]) { { "share_of_ideal", ideal / time.median },
                               { "mfu", flop / time.median / b->product },
                               { "tflop", flop * 1e-12 },
                               { "ideal_ms", 1e3 * ideal },
                               { "tokens", s.m.tokens },
                               { "tokens_per_s", s.m.tokens / time.median },
                               { "active_d", s.m.active_d },
                               { "all_kept", s.kept ? 1.0 : 0.0 },
                               { "graphs", b->be->replayed > replayed ? 1.0 : 0.0 },
                               { "free_gb", (double)memory.free * 1e-9 },
                               { beside > 0.0 ? "speedup" : NULL, beside / time.median },
                               { NULL, 0.0 } });
    *seconds = time.median;
    if (b->profile) {
        csp_params_elements(s.model->params, NULL, &trained);
        entries = s.m.active_q * (double)shape->queries + s.m.active_d * (double)shape->documents;
        status = csp_bench_profile(b, name, &s.shape, entries, trained, run_step, &s);
    }

fail:
    close_step(&s);
    return status;
}

static const csp_bench_shape tiny_shape = { .what = "tiny step",
                                            .D = 32,
                                            .F = 64,
                                            .L = 2,
                                            .H = 4,
                                            .G = 2,
                                            .E = 8,
                                            .V = 97,
                                            .queries = 2,
                                            .query_tokens = 3,
                                            .documents = 4,
                                            .document_tokens = 5,
                                            .lora = true,
                                            .micro_batch = 16 };

/* Llama-3.2-1B, or -3.1-8B; the texts are to be set. */
static csp_bench_shape llama(bool large, const char *what, bool lora)
{
    csp_bench_shape s = { .what = what,
                          .D = 2048,
                          .F = 8192,
                          .L = 16,
                          .H = 32,
                          .G = 8,
                          .E = 64,
                          .V = 128256,
                          .lora = lora,
                          .micro_batch = 16384 };

    if (large) {
        s.D = 4096;
        s.F = 14336;
        s.L = 32;
        s.E = 128;
        s.micro_batch = 8192;
        s.untied = true;
    }
    return s;
}

static csp_bench_shape with_texts(csp_bench_shape s, int64_t queries, int64_t query_tokens,
                                  int64_t documents, int64_t document_tokens)
{
    s.queries = queries;
    s.query_tokens = query_tokens;
    s.documents = documents;
    s.document_tokens = document_tokens;
    return s;
}

/* MS MARCO's texts without padding: queries of 12 tokens, documents of 80. */
static csp_bench_shape with_marco_texts(csp_bench_shape s)
{
    return with_texts(s, 64, 12, 512, 80);
}

static csp_status bench_beside(csp_bench *b, const char *name, csp_bench_shape shape, double beside,
                               double *seconds)
{
    if (b->tiny) {
        const csp_bench_shape asked = shape;

        shape = tiny_shape;
        shape.what = asked.what;
        shape.lora = asked.lora;
        shape.fp8 = asked.fp8;
    }
    return bench_step(b, name, &shape, beside, seconds);
}

static csp_status bench_llama(csp_bench *b, const char *name, csp_bench_shape shape)
{
    double seconds;

    return bench_beside(b, name, shape, 0.0, &seconds);
}

static csp_status case_s1(csp_bench *b)
{
    return bench_llama(b, "S1", with_marco_texts(llama(false, "1B LoRA step", true)));
}

static csp_status case_s4(csp_bench *b)
{
    return bench_llama(b, "S4", with_marco_texts(llama(false, "1B full step", false)));
}

static csp_status case_s5(csp_bench *b)
{
    CSP_TRY(bench_llama(b, "S5",
                        with_texts(llama(true, "8B LoRA step, 8 queries", true), 8, 64, 136, 128)));
    return bench_llama(b, "S5", with_marco_texts(llama(true, "8B LoRA step, 64 queries", true)));
}

static csp_status case_s6(csp_bench *b)
{
    csp_bench_shape shape = with_marco_texts(llama(true, "8B LoRA step, base as it is", true));
    double seconds;

    if (!b->be->fp8) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED, "bench S6: %s has no products of 8-bit floats",
                        b->be->name);
    }
    CSP_TRY(bench_beside(b, "S6", shape, 0.0, &seconds));
    shape.what = "8B LoRA step, base in 8 bits";
    shape.fp8 = true;
    return bench_beside(b, "S6", shape, seconds, &seconds);
}

static csp_bench_shape toy_step(const char *what)
{
    const csp_bench_shape toy = { .what = what,
                                  .D = 256,
                                  .F = 1024,
                                  .L = 6,
                                  .H = 8,
                                  .G = 8,
                                  .E = 32,
                                  .V = 32768,
                                  .micro_batch = 4096 };

    return with_texts(toy, 8, 16, 32, 60);
}

/* With graphs, and then without, where the device has them. */
static csp_status case_s8(csp_bench *b)
{
    const csp_graphs graphs = b->be->graphs;
    const bool profile = b->profile;
    csp_status status;

    CSP_TRY(bench_llama(b, "S8", toy_step("toy step")));
    if (!b->be->replays) {
        return CSP_OK;
    }
    CSP_TRY(csp_graph_choose(b->be, CSP_GRAPHS_OFF));
    b->profile = false;
    status = bench_llama(b, "S8", toy_step("toy step without graphs"));
    b->profile = profile;
    b->be->graphs = graphs;
    return status;
}

/* Encoding: one micro-batch after the other, its strongest terms on the host. */
typedef struct encode_bench {
    csp_model *model;
    csp_run *run;
    csp_arena arena;
    csp_pack pack;
    csp_pool_texts texts;
    csp_head head;
    csp_kept_rows *kept;
    csp_fetched_rows fetched;
    bool pooled; /* a micro-batch's rows are still on the device */
    int64_t B, T;
} encode_bench;

static csp_status place_encode(csp_arena *arena, encode_bench *e)
{
    const int64_t N = e->B * e->T, starts = e->B + 1;

    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &N, &e->pack.token));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &starts, &e->pack.seq_start));
    CSP_TRY(csp_arena_tensor(arena, CSP_U8, 1, &N, &e->texts.keep));
    return csp_run_place(e->run, N, arena);
}

static csp_status fill_encode(csp_bench *b, const csp_bench_shape *shape, encode_bench *e)
{
    const csp_rng rng = { 1, CSP_DRAW_TEST, 31, 0 };
    const int64_t N = e->B * e->T;
    int32_t *token = NULL;
    uint8_t *keep = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_alloc("bench", N, sizeof(*token), &token));
    CSP_TRY_GOTO(csp_alloc("bench", N, 1, &keep));
    for (int64_t n = 0; n < N; n++) {
        token[n] = (int32_t)csp_rng_below(rng, (uint64_t)n, (uint64_t)shape->V);
        keep[n] = 1;
    }
    CSP_TRY_GOTO(csp_backend_upload(b->be, token, &e->pack.token));
    CSP_TRY_GOTO(csp_backend_upload(b->be, keep, &e->texts.keep));
    e->texts.kept = N;
    e->texts.longest = e->T;
    CSP_TRY_GOTO(csp_bench_starts(b, e->B, e->T, &e->pack.seq_start));
    e->texts.seq_start = e->pack.seq_start;

fail:
    free(token);
    free(keep);
    return status;
}

/* A call starts a micro-batch and brings the rows of the one before, as csplade encode does. */
static csp_status run_encode(csp_bench *b, void *context)
{
    encode_bench *e = context;
    const csp_pass pass = { .causal = true };

    (void)b;
    CSP_TRY(csp_model_fwd(e->model, &e->pack, &pass, e->run));
    if (e->pooled) {
        CSP_TRY(csp_kept_rows_fetch(e->kept, &e->fetched));
    }
    CSP_TRY(csp_kept_rows_pool(e->kept, e->model, &e->head, e->run, &e->texts, ENCODE_TERMS));
    e->pooled = true;
    return CSP_OK;
}

static csp_status case_s7(csp_bench *b)
{
    const csp_bench_shape shape =
        b->tiny ? tiny_shape : with_marco_texts(llama(false, "encode", false));
    encode_bench e = { .B = shape.documents, .T = shape.document_tokens };
    const csp_kept_limits limits = { .texts = e.B, .top_k = ENCODE_TERMS };
    csp_tensor none = csp_tensor_none();
    csp_bench_time time;
    csp_status status;

    CSP_TRY_GOTO(make_model(b, &shape, CSP_TRAIN_NONE, &e.model));
    CSP_TRY_GOTO(csp_run_create(e.model->params, CSP_KEEP_NOTHING, &e.run));
    CSP_TRY_GOTO(place_encode(&e.arena, &e));
    CSP_TRY_GOTO(csp_backend_reserve(b->be, e.arena.peak, &e.arena));
    CSP_TRY_GOTO(place_encode(&e.arena, &e));
    CSP_TRY_GOTO(csp_kept_rows_create(b->be, e.model->params, &limits, &e.kept));
    CSP_TRY_GOTO(fill_encode(b, &shape, &e));
    e.pack.order = none; /* all are equally long */
    e.pack.row_key = none;
    e.pack.longest = e.T;
    e.head = csp_model_head(e.model, 1.0f, CSP_POOL_MAX, &none);
    CSP_TRY_GOTO(csp_bench_measure(b, run_encode, &e, &time));
    csp_bench_print(
        b, "S7", "1B, encode, top 512 to the host", &time,
        (csp_bench_figure[]) { { "docs_per_s", (double)e.B / time.median },
                               { "tokens_per_doc", (double)e.T },
                               { "terms_per_doc", (double)e.fetched.row_ptr[e.B] / (double)e.B },
                               { NULL, 0.0 } });

fail:
    csp_kept_rows_destroy(e.kept);
    csp_backend_release(b->be, &e.arena);
    csp_run_destroy(e.run);
    csp_model_destroy(e.model);
    return status;
}

/* One step of Q queries with 16 documents each, all of 128 tokens and kept in memory. */
static csp_status try_batch(csp_bench *b, int64_t Q, bool *fits)
{
    csp_bench_shape shape =
        b->tiny ? tiny_shape : with_texts(llama(false, "1B LoRA", true), 0, 128, 0, 128);
    step_bench s = { .step = 0 };
    csp_status status;

    shape.queries = Q;
    shape.documents = 16 * Q;
    *fits = false;
    CSP_TRY_GOTO(open_step(b, &shape, &s));
    if (s.kept) {
        CSP_TRY_GOTO(run_step(b, &s));
        CSP_TRY_GOTO(csp_backend_sync(b->be));
        *fits = true;
    }

fail:
    close_step(&s);
    return status == CSP_ERR_MEMORY ? CSP_OK : status;
}

static csp_status case_m1(csp_bench *b)
{
    int64_t good = 0, bad = 1;
    bool fits = true;

    while (fits && bad <= (b->tiny ? 4 : 4096)) {
        CSP_TRY(try_batch(b, bad, &fits));
        if (fits) {
            good = bad;
            bad *= 2;
        }
    }
    while (!b->tiny && bad - good > 1 && 16 * (bad - good) > good) {
        const int64_t middle = good + (bad - good) / 2;

        CSP_TRY(try_batch(b, middle, &fits));
        good = fits ? middle : good;
        bad = fits ? bad : middle;
    }
    csp_bench_print(b, "M1", "most queries of a 1B LoRA step", NULL,
                    (csp_bench_figure[]) { { "queries", (double)good },
                                           { "documents", 16.0 * (double)good },
                                           { "tokens", 128.0 * 17.0 * (double)good },
                                           { NULL, 0.0 } });
    return CSP_OK;
}

const csp_bench_case csp_bench_step_cases[] = {
    { "S1", case_s1, "LoRA step of 1B, 64 queries and 512 documents" },
    { "S4", case_s4, "step of 1B, everything trained" },
    { "S5", case_s5, "LoRA steps of 8B" },
    { "S6", case_s6, "LoRA steps of 8B, its base in 8 bits beside the base as it is" },
    { "S7", case_s7, "encoding with 1B" },
    { "S8", case_s8, "step of a toy model" },
    { "M1", case_m1, "the largest batch of 1B with LoRA" },
    { NULL, NULL, NULL },
};
