/*
 * cmd_bench.c - csplade bench: how fast this machine runs the parts of a training step.
 *
 * Every case is a claim with a formula: time (median of repeats), arithmetic by the formula named,
 * and the share of the sgemm rate measured in the same process. Random weights, random tokens.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/commands.h"
#include "cli/model_args.h"
#include "core/machine.h"
#include "core/memory.h"
#include "core/rng.h"
#include "model/param_values.h"
#include "ops/matrix_rate.h"
#include "train/contrastive.h"
#include "train/optimizer.h"

/* The cases whose steps --profile takes apart. */
#define PROFILED "S1, S4, S5, S8"

static const csp_option options[] = {
    { .name = "vocab",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "32768",
      .min = 2,
      .max = 1 << 24,
      .help = "size of the vocabulary" },
    { .name = "hidden",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "256",
      .min = 32,
      .max = 65536,
      .help = "hidden_size, a multiple of 32; intermediate_size is 4 times this" },
    { .name = "layers",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "6",
      .min = 1,
      .max = 1000,
      .help = "decoder blocks" },
    { .name = "queries",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "8",
      .min = 1,
      .max = 1 << 20,
      .help = "queries of a step" },
    { .name = "query-tokens",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "24",
      .min = 1,
      .max = 4096,
      .help = "tokens of a query" },
    { .name = "documents",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "32",
      .min = 1,
      .max = 1 << 20,
      .help = "documents of a step, a multiple of queries" },
    { .name = "document-tokens",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "96",
      .min = 1,
      .max = 4096,
      .help = "tokens of a document" },
    { .name = "lora",
      .kind = CSP_OPTION_FLAG,
      .help = "adapters (r = 16, all seven matrices) in "
              "place of full fine-tuning" },
    { .name = "steps",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "5",
      .min = 1,
      .max = 10000,
      .help = "measured repeats; the median is printed" },
    { .name = "warmup",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "1",
      .min = 0,
      .max = 1000,
      .help = "repeats before the measured ones" },
    { .name = "micro-batch-tokens",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "4096",
      .min = 1,
      .max = 1e9,
      .help = "token rows computed at once" },
    { .name = "min-bytes",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "8",
      .min = 4,
      .max = 1e11,
      .help = "comm: the smallest size" },
    { .name = "max-bytes",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "134217728",
      .min = 4,
      .max = 1e11,
      .help = "comm: the largest size" },
    { .name = "factor",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "4",
      .min = 2,
      .max = 1 << 20,
      .help = "comm: from one size to the next" },
    { .name = "tiny",
      .kind = CSP_OPTION_FLAG,
      .help =
          "shapes of some tokens for the cases that have shapes of their own, to try them out" },
    { .name = "profile",
      .kind = CSP_OPTION_FLAG,
      .help = PROFILED ": also what each op of a step takes, and loses against its ceiling" },
    { .name = "tune-products",
      .kind = CSP_OPTION_FLAG,
      .help = "a GPU times the algorithms of each kind of matrix product before it is measured" },
    CSP_OPTION_ROW_DEVICE,
    CSP_OPTION_ROW_PRECISION,
    CSP_OPTION_ROW_THREADS,
    CSP_OPTION_ROW_FORM,
};

/* What is measured with, and the numbers that come out. */
typedef struct bench {
    const csp_arguments *args;
    csp_backend *be;
    csp_dtype dtype; /* of weights and activations */
    csp_model *model;
    csp_contract contract;
    csp_token_lists queries, documents;
    int64_t repeats, warmup;
    double sgemm; /* measured GFLOP/s */
} bench;

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Median seconds of work(b, context) after the warm-up. */
static csp_status measure(bench *b, csp_status (*work)(bench *b, void *context), void *context,
                          double *seconds)
{
    double *times = NULL;
    csp_status status = CSP_OK;

    CSP_TRY(csp_alloc("bench", b->repeats, sizeof(*times), &times));
    for (int64_t i = -b->warmup; i < b->repeats; i++) {
        const double start = csp_machine_seconds();

        CSP_TRY_GOTO(work(b, context));
        CSP_TRY_GOTO(csp_backend_sync(b->be));
        if (i >= 0) {
            times[i] = csp_machine_seconds() - start;
        }
    }
    qsort(times, (size_t)b->repeats, sizeof(*times), by_value);
    *seconds = times[b->repeats / 2];

fail:
    free(times);
    return status;
}

/* One line: what, seconds, arithmetic, rate, share of sgemm. */
static void print_case(const bench *b, const char *what, const char *formula, double seconds,
                       double flop)
{
    const double rate = flop / seconds * 1e-9;
    const double share = b->sgemm > 0.0 ? rate / b->sgemm : 0.0;

    if (strcmp(csp_args_text(b->args, "format"), "json") == 0) {
        printf("{\"case\":\"%s\",\"seconds\":%.6g,\"gflop\":%.6g,\"formula\":\"%s\","
               "\"gflop_per_s\":%.4g,\"share_of_sgemm\":%.4g,\"threads\":%d}\n",
               what, seconds, flop * 1e-9, formula, rate, share, b->be->threads);
    } else {
        printf("%-12s %10.2f ms  %8.2f GFLOP/s  %5.1f %% of sgemm   (%s)\n", what, 1e3 * seconds,
               rate, 100.0 * share, formula);
    }
}

/* The yardstick: a large matrix product on all threads. */
static csp_status bench_sgemm(bench *b)
{
    double *seconds = NULL, median;
    csp_matrix_product product;
    char formula[64];
    csp_status status;

    CSP_TRY(csp_alloc("bench", b->repeats, sizeof(*seconds), &seconds));
    CSP_TRY_GOTO(csp_matrix_rate(b->be, b->dtype, b->warmup, b->repeats, seconds, &product));
    median = seconds[b->repeats / 2];
    b->sgemm = product.flop / median * 1e-9;
    (void)snprintf(formula, sizeof(formula), "2 x %lld x %lld x %lld", (long long)product.N,
                   (long long)product.I, (long long)product.O);
    print_case(b, "sgemm", formula, median, product.flop);

fail:
    free(seconds);
    return status;
}

/* Random texts of one length. */
static csp_status draw_texts(const bench *b, const char *count, const char *length, uint32_t key,
                             csp_token_lists *lists)
{
    const int64_t n = csp_args_i64(b->args, count), T = csp_args_i64(b->args, length);
    const csp_rng rng = { 1, CSP_DRAW_TEST, key, 0 };
    int32_t ids[4096];

    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < T; j++) {
            ids[j] = (int32_t)csp_rng_below(rng, (uint64_t)(i * T + j),
                                            (uint64_t)csp_args_i64(b->args, "vocab"));
        }
        CSP_TRY(csp_token_lists_add(lists, ids, T));
    }
    return CSP_OK;
}

static csp_status make_model(bench *b)
{
    csp_model_options m = { .train = CSP_TRAIN_FULL, .storage = { .dtype = b->dtype }, .seed = 1 };
    csp_model_config c = csp_model_config_standard(CSP_FAMILY_LLAMA);

    c.D = csp_args_i64(b->args, "hidden");
    c.L = csp_args_i64(b->args, "layers");
    c.H = c.G = c.D / 32;
    c.E = 32;
    c.F = 4 * c.D;
    c.V = csp_args_i64(b->args, "vocab");
    c.max_position = 4096;
    c.tied = true;
    c.initializer_range = 0.02;
    c.bos_id = c.pad_id = -1;
    c.eos_count = 0;
    CSP_TRY(csp_model_config_check(&c, "bench"));
    m.config = &c;
    m.max_len = 4096;
    if (csp_args_flag(b->args, "lora")) {
        m.train = CSP_TRAIN_LORA;
        m.lora = (csp_lora) { .R = CSP_BENCH_RANK, .alpha = 2 * CSP_BENCH_RANK };
        CSP_TRY(csp_lora_target(&m.lora, "all-linear"));
    }
    return csp_model_create(b->be, &m, &b->model);
}

typedef struct training {
    csp_contrastive *contrastive;
    csp_optimizer *optimizer;
    csp_contrastive_texts texts;
    int64_t step;
    csp_step_metrics m;
} training;

static csp_status run_training(bench *b, void *context)
{
    static const csp_optim_settings optim = { .learning_rate = 1e-4,
                                              .lr_scheduler_type = 2,
                                              .adam_beta1 = 0.9,
                                              .adam_beta2 = 0.999,
                                              .adam_epsilon = 1e-8,
                                              .max_grad_norm = 1.0 };
    training *t = context;
    csp_contrastive_step step = {
        .step = ++t->step, .lambda_q = 1e-3, .lambda_d = 1e-3, .pass = { .causal = true }
    };
    csp_tensor faults;

    csp_step_metrics_clear(&t->m, "bench", t->step, 1 << 20);
    CSP_TRY(csp_contrastive_run(t->contrastive, &t->texts, &step));
    faults = csp_contrastive_faults(t->contrastive);
    CSP_TRY(csp_optimizer_step(t->optimizer, &optim, t->step, 1 << 20, &faults));
    CSP_TRY(csp_backend_sync(b->be));
    CSP_TRY(csp_contrastive_read(t->contrastive, &t->m));
    csp_optimizer_read(t->optimizer, &t->m);
    return CSP_OK;
}

static csp_status open_training(bench *b, training *t, int32_t *positive)
{
    const int64_t Q = b->queries.count, P = b->documents.count;
    const csp_contrastive_options o = { .queries = Q,
                                        .passages = P,
                                        .max_rows = csp_args_i64(b->args, "micro-batch-tokens"),
                                        .budget = (size_t)8 << 30,
                                        .temperature = 20.0,
                                        .limits = { 1.01, 1.01, 1.01 } };

    for (int64_t q = 0; q < Q; q++) {
        positive[q] = (int32_t)(q * (P / Q));
    }
    t->texts = (csp_contrastive_texts) { .queries = &b->queries,
                                         .passages = &b->documents,
                                         .positive = positive };
    CSP_TRY(csp_contrastive_create(b->be, b->model, &b->contract, &o, &t->contrastive));
    return csp_optimizer_create(b->be, b->model, NULL, &t->optimizer);
}

/* A whole contrastive step with its update. */
static csp_status bench_step(bench *b)
{
    training t = { .step = 0 };
    int32_t *positive = NULL;
    double seconds;
    csp_status status;

    CSP_TRY(csp_alloc("bench", b->queries.count, sizeof(*positive), &positive));
    CSP_TRY_GOTO(open_training(b, &t, positive));
    CSP_TRY_GOTO(csp_optimizer_reset(t.optimizer));
    CSP_TRY_GOTO(measure(b, run_training, &t, &seconds));
    print_case(b, "step", "6 P N (4 with LoRA) + attention + 2 d V N + sparse head backward",
               seconds, csp_contrastive_flop(t.contrastive));
    if (strcmp(csp_args_text(b->args, "format"), "json") == 0) {
        printf(
            "{\"case\":\"train\",\"side\":\"csplade\",\"vocab\":%lld,\"lora\":%s,\"tokens\":%.0f,"
            "\"step_s\":%.6g,\"tokens_per_s\":%.6g,\"peak_mb\":%.1f,\"active_d\":%.6g,"
            "\"loss\":%.9g}\n",
            (long long)csp_args_i64(b->args, "vocab"),
            csp_args_flag(b->args, "lora") ? "true" : "false", t.m.tokens, seconds,
            t.m.tokens / seconds, csp_machine_peak_mb(), t.m.active_d, t.m.loss);
    } else {
        printf("%.0f tokens a step, %.0f tokens/s, peak %.0f MB, %.0f active terms a document\n",
               t.m.tokens, t.m.tokens / seconds, csp_machine_peak_mb(), t.m.active_d);
    }

fail:
    csp_optimizer_destroy(t.optimizer);
    csp_contrastive_destroy(t.contrastive);
    free(positive);
    return status;
}

/* Tensors of the head and loss cases: hidden states of all documents of a step. */
typedef struct head_case {
    csp_head head;
    csp_tensor h, target, dh, dw;
    csp_tensor loss, bad; /* of csp_token_loss */
    csp_pool_texts texts;
    csp_sparse rows;
    int64_t N, B;
    bool backward;
} head_case;

static csp_status run_head(bench *b, void *context)
{
    head_case *c = context;
    csp_sparse_pool_grad g = { .rows = &c->rows,
                               .dw = c->dw,
                               .h = c->h,
                               .texts = c->texts,
                               .dh = c->dh,
                               .de = csp_model_head_grad(b->model) };

    if (c->backward) {
        return csp_sparse_pool_bwd(b->be, &c->head, &g);
    }
    return csp_sparse_pool_fwd(b->be, &c->head, &c->h, &c->texts, 0, &c->rows);
}

static csp_status run_loss(bench *b, void *context)
{
    head_case *c = context;
    csp_token_loss_args args = { .head = c->head,
                                 .h = c->h,
                                 .target = c->target,
                                 .predicted = c->N,
                                 .lambda_relu = 1.0f,
                                 .coefficient = 1.0f / (float)c->N,
                                 .dh = c->dh,
                                 .de = csp_model_head_grad(b->model),
                                 .loss = c->loss,
                                 .bad = c->bad };

    return csp_token_loss(b->be, &args);
}

static csp_status place_head(csp_arena *arena, csp_dtype dtype, int64_t D, int64_t V, head_case *c)
{
    const int64_t cap[] = { c->B * V }, starts[] = { c->B + 1 }, two = 2;

    c->texts.kept = c->N;
    c->texts.longest = c->N / c->B;
    CSP_TRY(csp_arena_tensor(arena, dtype, 2, (int64_t[]) { c->N, D }, &c->h));
    CSP_TRY(csp_arena_tensor(arena, dtype, 2, (int64_t[]) { c->N, D }, &c->dh));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, starts, &c->texts.seq_start));
    CSP_TRY(csp_arena_tensor(arena, CSP_U8, 1, &c->N, &c->texts.keep));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, &c->N, &c->target));
    CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, starts, &c->rows.row_ptr));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, cap, &c->rows.term));
    CSP_TRY(csp_arena_tensor(arena, CSP_F32, 1, cap, &c->rows.weight));
    CSP_TRY(csp_arena_tensor(arena, CSP_I32, 1, cap, &c->rows.argmax));
    c->rows.vocab = V;
    CSP_TRY(csp_arena_tensor(arena, CSP_F64, 1, &two, &c->loss));
    CSP_TRY(csp_arena_tensor(arena, CSP_I64, 1, &two, &c->bad));
    return csp_arena_tensor(arena, CSP_F32, 1, cap, &c->dw);
}

/* Random hidden states, uniform texts, targets; through host memory. */
static csp_status fill_head(bench *b, head_case *c)
{
    const csp_rng rng = { 2, CSP_DRAW_TEST, 7, 0 };
    const int64_t count = csp_tensor_count(&c->h), V = c->rows.vocab, T = c->N / c->B;
    float *h = NULL;
    int32_t *ids = NULL;
    uint8_t *keep = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_alloc("bench", count, sizeof(*h), &h));
    CSP_TRY_GOTO(csp_alloc("bench", c->N + 1, sizeof(*ids), &ids));
    CSP_TRY_GOTO(csp_alloc("bench", c->N, 1, &keep));
    for (int64_t i = 0; i < count; i++) {
        h[i] = csp_rng_normal(rng, (uint64_t)i);
    }
    CSP_TRY_GOTO(csp_tensor_upload(b->be, &c->h, 0, count, h));
    for (int64_t i = 0; i < c->N; i++) {
        ids[i] = (int32_t)csp_rng_below(rng, (uint64_t)(count + i), (uint64_t)V);
        keep[i] = 1;
    }
    CSP_TRY_GOTO(csp_backend_upload(b->be, ids, &c->target));
    CSP_TRY_GOTO(csp_backend_upload(b->be, keep, &c->texts.keep));
    for (int64_t i = 0; i <= c->B; i++) {
        ids[i] = (int32_t)(i * T);
    }
    status = csp_backend_upload(b->be, ids, &c->texts.seq_start);

fail:
    free(h);
    free(ids);
    free(keep);
    return status;
}

/* The head forward and backward, and both adaptation losses. */
static csp_status bench_head(bench *b)
{
    const int64_t V = csp_args_i64(b->args, "vocab"), D = csp_args_i64(b->args, "hidden");
    const bool trained = csp_model_head_grad(b->model).ndim > 0;
    head_case c = { .B = b->documents.count,
                    .N = b->documents.count * csp_args_i64(b->args, "document-tokens") };
    csp_tensor none = csp_tensor_none();
    csp_arena arena = { 0 };
    double seconds, flop = 2.0 * (double)D * (double)V * (double)c.N;
    int64_t nnz;
    csp_tensor last;
    csp_status status;

    c.head = csp_model_head(b->model, 1.0f, CSP_POOL_MAX, &none);
    CSP_TRY(place_head(&arena, b->dtype, D, V, &c));
    CSP_TRY(csp_backend_reserve(b->be, arena.peak, &arena));
    CSP_TRY_GOTO(place_head(&arena, b->dtype, D, V, &c));
    CSP_TRY_GOTO(fill_head(b, &c));
    CSP_TRY_GOTO(measure(b, run_head, &c, &seconds));
    print_case(b, "head fwd", "2 d V N", seconds, flop);
    last = csp_tensor_rows(&c.rows.row_ptr, c.B, 1);
    CSP_TRY_GOTO(csp_backend_download(b->be, &last, &nnz));
    CSP_TRY_GOTO(csp_backend_copy(b->be, &c.rows.weight, &c.dw));
    c.backward = true;
    CSP_TRY_GOTO(measure(b, run_head, &c, &seconds));
    print_case(b, "head bwd", trained ? "4 d nnz" : "2 d nnz", seconds,
               (trained ? 4.0 : 2.0) * (double)D * (double)nnz);
    CSP_TRY_GOTO(measure(b, run_loss, &c, &seconds));
    print_case(b, "token loss", trained ? "6 d V N" : "4 d V N", seconds,
               (trained ? 3.0 : 2.0) * flop);

fail:
    csp_backend_release(b->be, &arena);
    return status;
}

static const csp_bench_case *find_case(const char *name)
{
    static const csp_bench_case *const tables[] = { csp_bench_head_cases, csp_bench_op_cases,
                                                    csp_bench_step_cases };

    for (size_t i = 0; name != NULL && i < CSP_COUNT(tables); i++) {
        for (const csp_bench_case *c = tables[i]; c->name != NULL; c++) {
            if (strcmp(c->name, name) == 0) {
                return c;
            }
        }
    }
    return NULL;
}

/* One of the cases of bench.h behind the ceilings, or those alone. */
static csp_status run_device_case(const csp_arguments *args, const csp_bench_case *c)
{
    csp_bench b = { .args = args,
                    .repeats = csp_args_i64(args, "steps"),
                    .warmup = csp_args_i64(args, "warmup"),
                    .tiny = csp_args_flag(args, "tiny"),
                    .profile = csp_args_flag(args, "profile") };
    csp_status status;

    CSP_TRY(csp_device_open(args, &b.be, &b.dtype));
    b.be->tune_products = csp_args_flag(args, "tune-products");
    status = csp_bench_ceilings(&b);
    if (status == CSP_OK && c != NULL) {
        status = c->run(&b);
    }
    csp_backend_destroy(b.be);
    return status;
}

/* --profile with what has no steps is refused. */
static csp_status check_profile(const csp_arguments *args, const csp_bench_case *c)
{
    return !csp_args_flag(args, "profile") || (c != NULL && strstr(PROFILED, c->name) != NULL)
               ? CSP_OK
               : CSP_FAIL(CSP_ERR_CONFIG, "bench: --profile is of " PROFILED);
}

static csp_status run_cases(bench *b)
{
    const char *what = csp_args_positional(b->args, 0);
    const bool all = what == NULL || strcmp(what, "all") == 0;
    const bool step = all || strcmp(what, "step") == 0, head = all || strcmp(what, "head") == 0;

    if (!step && !head && strcmp(what, "sgemm") != 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "bench: \"%s\" is none of the cases (--help lists them)",
                        what);
    }
    if (csp_args_i64(b->args, "documents") % csp_args_i64(b->args, "queries") != 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "bench: --documents must be a multiple of --queries");
    }
    CSP_TRY(csp_device_open(b->args, &b->be, &b->dtype));
    b->be->tune_products = csp_args_flag(b->args, "tune-products");
    CSP_TRY(csp_contract_init(&b->contract));
    CSP_TRY(draw_texts(b, "queries", "query-tokens", 1, &b->queries));
    CSP_TRY(draw_texts(b, "documents", "document-tokens", 2, &b->documents));
    CSP_TRY(bench_sgemm(b));
    if (head || step) {
        CSP_TRY(make_model(b));
    }
    if (step) {
        CSP_TRY(bench_step(b));
    }
    return head ? bench_head(b) : CSP_OK;
}

static csp_status run(const csp_arguments *args)
{
    const char *name = csp_args_positional(args, 0);
    const csp_bench_case *c = find_case(name);
    bench b = { .args = args,
                .repeats = csp_args_i64(args, "steps"),
                .warmup = csp_args_i64(args, "warmup") };
    csp_status status;

    CSP_TRY(check_profile(args, c));
    CSP_TRY(csp_bench_check_options(args, name, c != NULL));
    if (name != NULL && strcmp(name, "comm") == 0) {
        return csp_bench_comm(args);
    }
    if (c != NULL || (name != NULL && strcmp(name, "ceilings") == 0)) {
        return run_device_case(args, c);
    }
    status = run_cases(&b);
    csp_token_lists_clear(&b.queries);
    csp_token_lists_clear(&b.documents);
    csp_contract_clear(&b.contract);
    csp_model_destroy(b.model);
    csp_backend_destroy(b.be);
    return status;
}

const csp_command csp_cmd_bench = {
    .name = "bench",
    .summary = "how fast this machine runs a training step and its parts",
    .options = options,
    .option_count = CSP_COUNT(options),
    .positional = "[CASE]",
    .details = "cases: all (standard), sgemm, head, step: of the model that the options describe\n"
               "       ceilings, K1, K3, K4, K5, K6, K7, K8, K9, K10, K11: kernels of\n"
               "       Llama-3.2-1B beside the products and copies that bound them\n"
               "       S1, S4, S5, S6, S7, S8, M1: training steps, encoding, largest batch\n"
               "       comm: what ranks send one another, by size, as nccl-tests has it; started\n"
               "       as train is on several ranks, rank 0 prints\n\n"
               "scripts/bench_cpu.sh and scripts/bench_gpu.py run the same in PyTorch beside it;\n"
               "docs/benchmarks/gpu.md says what each case is, docs/benchmarks/ranks.md of comm.",
    .run = run,
};
