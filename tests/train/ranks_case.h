/*
 * ranks_case.h - some steps of a tiny model on R ranks, each a process of its own, joined over TCP
 * on the loopback; for tests that R ranks give what one gives.
 */
#pragma once

#include <sys/mman.h>

#include "support/ranks.h"

#include "data/share.h"
#include "train/optimizer.h"
#include "train/tiny.h"

enum { CASE_QUERIES = 8, CASE_PASSAGES = 24, CASE_STEPS = 20, CASE_WEIGHTS = 1 << 16 };

typedef struct ranks_case {
    const char *device; /* "cpu", or "cuda": each rank one of its own */
    csp_variant variant;
    bool lora;
    bool adapt; /* the adaptation phase, else the contrastive one */
    csp_pooling pooling;
    csp_reg_kind regularizer;
    int64_t steps;  /* at most CASE_STEPS                          */
    int64_t blocks; /* of negatives; 0: one                        */
} ranks_case;

/* How ranks of full fine-tuning run a case; { 0 } is f32, one bucket, all state on every rank. */
typedef struct case_way {
    csp_storage storage;
    int64_t bucket_bytes; /* csp_sharing.bucket_bytes */
    bool shard;           /* state is shared out      */
} case_way;

/* What a run leaves behind, in memory that its processes share. */
typedef struct ranks_result {
    int64_t count;           /* of trained weights                          */
    double loss[CASE_STEPS]; /* nce and both sparsity terms are in it       */
    double tokens, accuracy, active_d, zero_d, index_flops, masked; /* of the last step */
    float gradient[CASE_WEIGHTS]; /* of the first step, over all ranks           */
    float weights[CASE_WEIGHTS];  /* after the last                              */
    csp_comm_traffic traffic;     /* of rank 0, in the last step                 */
    int64_t entries;              /* of all queries in the last step             */
    int64_t state_bytes;          /* of rank 0's moments and masters             */
} ranks_result;

/* A whole step, of which each rank takes a share. */
typedef struct whole_step {
    csp_token_lists queries, passages; /* of all ranks   */
    csp_token_lists own_q, own_p;
    csp_share share_q, share_p;
    int32_t positive[CASE_QUERIES];
    uint8_t mask[CASE_QUERIES * CASE_PASSAGES];
} whole_step;

/* Texts first .. first+count-1, shared out among so many ranks; all of share->text by number. */
static inline void take_share(csp_share *share, const csp_token_lists *all, int64_t first,
                              int64_t count, int ranks, int rank, csp_token_lists *own,
                              const int64_t **text)
{
    const int64_t each = count / ranks;

    assert_ok(csp_share_reserve(share, count, ranks));
    for (int64_t i = 0; i < count; i++) {
        share->cost[i] = all->start[first + i + 1] - all->start[first + i];
    }
    assert_ok(csp_share_texts(share, count, ranks));
    for (int64_t i = 0; i < count; i++) {
        share->text[i] += first;
    }
    *text = share->text + rank * each;
    csp_token_lists_reset(own);
    for (int64_t i = 0; i < each; i++) {
        int64_t n;
        const int32_t *ids = csp_token_lists_get(all, (*text)[i], &n);

        assert_ok(csp_token_lists_add(own, ids, n));
    }
}

/*
 * Query q's documents are 3q .. 3q+2, the first its positive; 3q+2 is a positive of q+1 too. Each
 * group of ranks has some of the blocks, which its ranks share out.
 */
static inline csp_contrastive_texts share_of(whole_step *s, int64_t blocks, int ranks, int rank)
{
    const int group = blocks > ranks ? 1 : ranks / (int)blocks, groups = ranks / group;
    const int64_t P = CASE_PASSAGES / ranks, Q = CASE_QUERIES / groups;
    const int64_t block = CASE_QUERIES / blocks, first = rank / group * Q;
    csp_contrastive_texts t = { &s->own_q, &s->own_p, NULL, NULL, s->positive, s->mask };

    take_share(&s->share_q, &s->queries, first, Q, group, rank % group, &s->own_q, &t.query_text);
    take_share(&s->share_p, &s->passages, 3 * first, 3 * Q, group, rank % group, &s->own_p,
               &t.passage_text);
    for (int64_t i = 0; i < Q; i++) {
        const int64_t q = s->share_q.text[i];

        s->positive[i] = -1;
        for (int64_t p = 0; p < P; p++) {
            const int64_t document = t.passage_text[p];

            s->mask[i * P + p] = document / 3 / block != q / block ? CSP_LEFT_OUT_BLOCK
                                 : document == 3 * q - 1           ? CSP_LEFT_OUT_POSITIVE
                                                                   : 0;
            s->positive[i] = document == 3 * q ? (int32_t)p : s->positive[i];
        }
    }
    return t;
}

static inline void save_weights(const tiny *t, bool gradient, float *out)
{
    int64_t at = 0;

    for (int64_t i = 0; i < t->model->params->count; i++) {
        csp_param row = t->model->params->rows[i];

        row.master = csp_tensor_none(); /* the value, of which a rank may have no whole master */
        if (row.trained) {
            const int64_t count = csp_tensor_count(&row.value);

            assert_true(at + count <= CASE_WEIGHTS);
            assert_ok(gradient ? csp_backend_download(t->be, &row.grad, out + at)
                               : csp_param_download(t->be, &row, out + at));
            at += count;
        }
    }
    assert_true(at == t->count);
}

/* The gradient of all ranks, of which a rank may have the sums of its own elements alone. */
static inline void save_gradient(const tiny *t, const csp_ranks *ranks, float *out)
{
    int64_t at = 0;

    save_weights(t, true, out);
    if (!csp_params_sharded(t->model->params)) {
        return;
    }
    for (int64_t i = 0; i < t->model->params->count; i++) {
        const csp_param *row = &t->model->params->rows[i];

        for (int64_t j = 0; j < csp_tensor_count(&row->value); j++, at++) {
            out[at] = j >= row->own_first && j < row->own_first + row->own_count ? out[at] : 0.0f;
        }
    }
    assert_ok(csp_ranks_reduce_host(ranks, out, CSP_F32, t->count, CSP_COMM_SUM, "test"));
}

static inline int64_t case_blocks(const ranks_case *c)
{
    return c->blocks > 0 ? c->blocks : 1;
}

static inline void clear_step(whole_step *s)
{
    csp_token_lists_clear(&s->queries);
    csp_token_lists_clear(&s->passages);
    csp_token_lists_clear(&s->own_q);
    csp_token_lists_clear(&s->own_p);
    csp_share_clear(&s->share_q);
    csp_share_clear(&s->share_p);
}

/* group: of the ranks that share blocks of negatives. */
static inline void run_case_steps(const ranks_case *c, const csp_ranks *ranks,
                                  const csp_ranks *group, tiny *t, ranks_result *out)
{
    /*
     * Ranks cut their shares into micro-batches of their own, but none much larger than the others:
     * products of many rows and of few add in another order, which alone makes gradients of this
     * model differ by 2e-6 on one rank (test_contrastive compares those, to a limit of its own).
     */
    const int64_t rows = csp_ranks_rank(ranks) % 2 == 0 ? 13 : 7;
    const csp_optim_settings settings = { .learning_rate = 0.001,
                                          .adam_beta1 = 0.9,
                                          .adam_beta2 = 0.999,
                                          .adam_epsilon = 1e-8,
                                          .weight_decay = 0.01,
                                          .max_grad_norm = 1.0 };
    csp_contrastive_options of_pairs = { .queries = CASE_QUERIES,
                                         .passages = CASE_PASSAGES,
                                         .max_rows = rows,
                                         .budget = 100000,
                                         .keep = CSP_KEEP_ALL,
                                         .temperature =
                                             20.0, /* scores of some units, as a real model has */
                                         .regularizer = c->regularizer,
                                         .limits = { 1.01, 1.01, 1.01 },
                                         .group = group,
                                         .ranks = ranks };
    csp_adapt_options of_texts = { .max_rows = rows,
                                   .max_len = TINY_LONGEST,
                                   .texts = CASE_PASSAGES / csp_ranks_size(ranks),
                                   .lambda_relu = 0.5,
                                   .ranks = ranks };
    whole_step s = { 0 };
    csp_contrastive *contrastive = NULL;
    csp_adapt *adapt = NULL;
    csp_optimizer *optimizer;
    csp_comm_traffic now;
    csp_step_metrics m;

    assert_ok(csp_optimizer_create(t->be, t->model, ranks, &optimizer));
    assert_ok(csp_optimizer_reset(optimizer));
    of_pairs.watch = of_texts.watch = csp_optimizer_watch(optimizer);
    if (c->adapt) {
        assert_ok(csp_adapt_create(t->be, t->model, &t->contract, &of_texts, &adapt));
    } else {
        assert_ok(csp_contrastive_create(t->be, t->model, &t->contract, &of_pairs, &contrastive));
    }
    for (int64_t k = 0; k < c->steps; k++) {
        const csp_contrastive_step step = { .step = k + 1,
                                            .lambda_q = 0.03,
                                            .lambda_d = 0.02,
                                            .pass = { .causal =
                                                          c->adapt || c->variant != CSP_VARIANT_BI,
                                                      .dropout = c->lora,
                                                      .seed = 11,
                                                      .step = (uint64_t)k } };
        csp_contrastive_texts texts;
        csp_tensor faults;

        csp_token_lists_reset(&s.queries);
        csp_token_lists_reset(&s.passages);
        tiny_texts(&s.queries, CASE_QUERIES, (uint32_t)(100 + k), -1);
        tiny_texts(&s.passages, CASE_PASSAGES, (uint32_t)(200 + k), 5);
        texts = share_of(&s, case_blocks(c), csp_ranks_size(ranks), csp_ranks_rank(ranks));
        out->traffic = csp_comm_traffic_of(ranks->comm);
        csp_step_metrics_clear(&m, "test", k + 1, c->steps);
        if (c->adapt) {
            assert_ok(csp_adapt_run(adapt, texts.passages, texts.passage_text, &step.pass, true));
            faults = csp_adapt_faults(adapt);
        } else {
            assert_ok(csp_contrastive_run(contrastive, &texts, &step));
            faults = csp_contrastive_faults(contrastive);
        }
        if (k == 0) {
            assert_ok(csp_optimizer_sum(optimizer));
            save_gradient(t, ranks, out->gradient);
        }
        assert_ok(csp_optimizer_step(optimizer, &settings, k + 1, c->steps, &faults));
        assert_ok(csp_backend_sync(t->be));
        assert_ok(c->adapt ? csp_adapt_read(adapt, &m) : csp_contrastive_read(contrastive, &m));
        csp_optimizer_read(optimizer, &m);
        assert_null(csp_optimizer_bad(optimizer));
        out->loss[k] = m.loss;
    }
    assert_ok(csp_values_await(t->model, t->model->params->config.L));
    now = csp_comm_traffic_of(ranks->comm);
    out->traffic.sent = now.sent - out->traffic.sent;
    out->traffic.received = now.received - out->traffic.received;
    out->count = t->count;
    out->tokens = m.tokens;
    out->accuracy = m.accuracy;
    out->active_d = m.active_d;
    out->zero_d = m.zero_d;
    out->index_flops = m.index_flops;
    out->masked = m.masked;
    out->entries = c->adapt ? 0 : (int64_t)(m.active_q * CASE_QUERIES + 0.5);
    save_weights(t, false, out->weights);
    csp_contrastive_destroy(contrastive);
    csp_adapt_destroy(adapt);
    csp_optimizer_destroy(optimizer);
    clear_step(&s);
}

/* Numbers that do not depend on what was there: a part of a master cannot be read and shaken. */
static inline void draw_weights(const tiny *t)
{
    for (int64_t i = 0; i < t->model->params->count; i++) {
        csp_param *row = &t->model->params->rows[i];
        const csp_rng rng = { 6, CSP_DRAW_TEST, (uint32_t)i, 0 };
        static float values[CASE_WEIGHTS];

        for (int64_t j = 0; j < csp_tensor_count(&row->value); j++) {
            values[j] = (row->ndim == 1 ? 1.0f : 0.0f) + 0.2f * csp_rng_normal(rng, (uint64_t)j);
        }
        assert_ok(csp_param_upload(t->be, row, 0, csp_tensor_count(&row->value), values));
    }
}

/* What the ranks run, and where rank 0 puts what comes out: set before they are started. */
static const ranks_case *case_run;
static const case_way *case_runs_as;
static ranks_result *case_result;

/* One rank: a process of its own, in which a failed assertion is an exit status. */
static inline int case_rank(int argument)
{
    static ranks_result unseen;
    const csp_comm_options options = { .timeout_s = 120.0 };
    csp_storage storage = case_runs_as->storage;
    csp_params_size bytes;
    size_t all;
    char device[16];
    csp_ranks ranks, group;
    csp_launch launch;
    csp_comm *comm, *near;
    int in_group;
    tiny t;

    (void)argument;
    assert_ok(csp_launch_find(&launch));
    assert_ok(csp_comm_create(&launch, &options, &comm));
    snprintf(device, sizeof(device), strcmp(case_run->device, "cpu") == 0 ? "cpu" : "cuda:%d",
             csp_comm_rank(comm));
    storage.sharing = (csp_sharing) { .ranks = case_runs_as->shard ? csp_comm_size(comm) : 1,
                                      .rank = csp_comm_rank(comm),
                                      .bucket_bytes = case_runs_as->bucket_bytes };
    tiny_open_stored(&t, device, case_run->variant, case_run->lora, storage);
    if (storage.dtype != CSP_F32) {
        draw_weights(&t);
    }
    t.contract.pooling = case_run->pooling;
    assert_ok(csp_ranks_open(comm, t.be, &ranks));
    in_group = csp_negative_group(case_blocks(case_run), ranks.size);
    assert_ok(csp_comm_group(comm, ranks.rank / in_group * in_group, in_group, &near));
    assert_ok(csp_ranks_open(near, t.be, &group));
    run_case_steps(case_run, &ranks, &group, &t, ranks.rank == 0 ? case_result : &unseen);
    assert_ok(csp_params_bytes(t.model->params, &bytes));
    assert_ok(csp_model_bytes(t.model->params, TINY_LONGEST, &all));
    assert_int_equal(t.model->keep.used, all); /* what was planned is what was taken */
    case_result->state_bytes = (int64_t)(bytes.moments + bytes.masters);
    csp_ranks_close(&group);
    csp_ranks_close(&ranks);
    tiny_close(&t);
    csp_comm_destroy(comm);
    return 0;
}

/* Runs a case on so many ranks. The caller gives *out back to munmap. */
static inline ranks_result *run_on_ranks_as(const ranks_case *c, int size, const case_way *way)
{
    ranks_result *out =
        mmap(NULL, sizeof(*out), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int at[8];

    assert_true(out != MAP_FAILED && size <= 8);
    case_run = c;
    case_runs_as = way;
    case_result = out;
    assert_true(ranks_run(case_rank, 0, size, 600.0, at));
    for (int r = 0; r < size; r++) {
        assert_int_equal(at[r], 0);
    }
    return out;
}

static inline ranks_result *run_on_ranks(const ranks_case *c, int size)
{
    return run_on_ranks_as(c, size, &(case_way) { 0 });
}

/* |a - b| / |b| */
static inline double relative_distance(const float *a, const float *b, int64_t n)
{
    double apart = 0.0, size = 0.0;

    for (int64_t i = 0; i < n; i++) {
        apart += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(apart / size);
}

static inline bool near(double a, double b, double limit)
{
    return fabs(a - b) <= limit * fabs(b) || (isnan(a) && isnan(b));
}

/*
 * Gradients of the first step within 1e-6, the loss of 20 steps within
 * 1e-5, what is trained then within 1e-3, because Adam turns the rounding of tiny gradients into
 * whole steps. Counts agree to the last one.
 */
static inline void check_same(const ranks_case *c, const ranks_result *got,
                              const ranks_result *want, int size)
{
    /* Sums over all positions round more: cuts of one rank alone differ by up to 1.9e-6 here. */
    const double limit = c->pooling == CSP_POOLING_SUM ? 3e-6 : 1e-6;
    const double gradient = relative_distance(got->gradient, want->gradient, want->count);
    const double weights = relative_distance(got->weights, want->weights, want->count);

    assert_int_equal(got->count, want->count);
    if (!(gradient <= limit && weights <= 1e-3)) {
        print_error("variant %d lora %d adapt %d ranks %d: gradient %g weights %g\n", c->variant,
                    c->lora, c->adapt, size, gradient, weights);
    }
    assert_true(gradient <= limit);
    assert_true(weights <= 1e-3);
    for (int64_t k = 0; k < c->steps; k++) {
        if (!near(got->loss[k], want->loss[k], 1e-5)) {
            print_error("variant %d lora %d adapt %d ranks %d: loss %.9g, not %.9g, in step %lld\n",
                        c->variant, c->lora, c->adapt, size, got->loss[k], want->loss[k],
                        (long long)k + 1);
        }
        assert_true(near(got->loss[k], want->loss[k], 1e-5));
    }
    assert_true(got->tokens == want->tokens);
    assert_true(got->masked == want->masked || c->adapt);
    assert_true(near(got->active_d, want->active_d, 0.02));
    assert_true(near(got->index_flops, want->index_flops, 0.02));
}
