/*
 * saved_case.h - a tiny model with what a checkpoint has beside it, all of it functions of a step,
 * alone or as one of several ranks; for tests of what writes and reads checkpoints.
 */
#pragma once

#include "support/ranks.h"
#include "train/tiny.h"

#include "io/file.h"
#include "train/checkpoint.h"

typedef struct saved {
    tiny t;
    csp_config *config;
    csp_progress progress;
    csp_health_memory health;
    csp_snapshot snapshot;
} saved;

/* sharing: { 0 } where state is not shared out. */
static inline void open_saved_of(saved *s, bool lora, csp_sharing sharing)
{
    tiny_open_stored(&s->t, "cpu", CSP_VARIANT_CAUSAL, lora, (csp_storage) { .sharing = sharing });
    assert_ok(csp_config_parse(
        "test", "model.path: m\nrun: {output_dir: o, phases: [contrastive]}\n", &s->config));
    assert_ok(csp_health_memory_init(&s->health, TINY_V));
    s->snapshot = (csp_snapshot) { .model = s->t.model,
                                   .contract = &s->t.contract,
                                   .tokenizer = "{}",
                                   .tokenizer_bytes = 2,
                                   .base_path = "base",
                                   .base_hash = "hash" };
    s->progress = (csp_progress) { .phase = "contrastive",
                                   .step = 1,
                                   .threads = 1,
                                   .micro_batch_tokens = 16,
                                   .precision = "fp32",
                                   .metric = "nDCG@10",
                                   .best = NAN };
}

static inline void open_saved(saved *s, bool lora)
{
    open_saved_of(s, lora, (csp_sharing) { 0 });
}

static inline void close_saved(saved *s)
{
    csp_health_memory_clear(&s->health);
    csp_config_free(s->config);
    tiny_close(&s->t);
}

static inline void fill(const saved *s, const csp_tensor *t, float value)
{
    float *values = malloc(csp_tensor_bytes(t));
    csp_tensor to = *t;

    for (int64_t i = 0; i < csp_tensor_count(t); i++) {
        values[i] = value + (float)i;
    }
    assert_ok(csp_backend_upload(s->t.be, values, &to));
    free(values);
}

/* Everything that a checkpoint has of the device and the panel becomes a function of step. */
static inline void train_to(saved *s, int64_t step)
{
    const csp_params *params = s->t.model->params;

    for (int64_t i = 0; i < params->count; i++) {
        const csp_param *row = &params->rows[i];

        if (row->trained) {
            fill(s, &row->value, (float)step);
            fill(s, &row->m, 2.0f * (float)step);
            fill(s, &row->v, 3.0f * (float)step);
        }
    }
    for (int64_t v = 0; v < TINY_V; v++) {
        s->health.last_active[v] = step;
    }
    s->progress.step = step;
    s->progress.next_example = 8 * step;
}

static inline const char *name_of(int64_t step)
{
    static char names[8][64];
    static int turn;
    char *name = names[turn++ % 8];

    snprintf(name, sizeof(names[0]), "checkpoints/contrastive-%08d.h5", (int)step);
    return name;
}

static inline void folder(const char *name, char path[600])
{
    snprintf(path, 600, "%s/%s", scratch_dir, name);
    assert_ok(csp_file_make_dirs(path));
}

static inline void expect_same(const char *dir, const char *other, const char *name)
{
    char a[700], b[700];
    size_t count_a, count_b;
    char *bytes_a, *bytes_b;

    snprintf(a, sizeof(a), "%s/%s", dir, name);
    snprintf(b, sizeof(b), "%s/%s", other, name);
    bytes_a = scratch_read(a, &count_a);
    bytes_b = scratch_read(b, &count_b);
    assert_int_equal(count_a, count_b);
    assert_memory_equal(bytes_a, bytes_b, count_a);
    free(bytes_a);
    free(bytes_b);
}

/* One of several ranks: a process of its own, in which a failed assertion is an exit status. */
static double member_timeout_s = 60.0, member_grace_s = 0.0;
static bool member_shares = true; /* state */

typedef struct member {
    csp_comm *comm;
    csp_ranks ranks;
    saved s;
} member;

static inline void join_ranks(member *m)
{
    const csp_comm_options options = { .timeout_s = member_timeout_s, .grace_s = member_grace_s };
    csp_sharing sharing = { 0 };
    csp_launch launch;

    assert_ok(csp_launch_find(&launch));
    assert_ok(csp_comm_create(&launch, &options, &m->comm));
    if (member_shares) {
        sharing = (csp_sharing) { csp_comm_size(m->comm), csp_comm_rank(m->comm), 1, 0 };
    }
    open_saved_of(&m->s, false, sharing);
    assert_ok(csp_ranks_open(m->comm, m->s.t.be, &m->ranks));
    m->s.config->run.save_total_limit = 9;
}

static inline int leave_ranks(member *m)
{
    csp_ranks_close(&m->ranks);
    close_saved(&m->s);
    csp_comm_destroy(m->comm);
    return 0;
}
