/*
 * test_ranks.c - R ranks give what one gives: losses, gradients and weights of both phases, for any
 * cut of a step into ranks and micro-batches; and how many bytes that takes.
 */
#include <stdatomic.h>
#include <time.h>

#include "ops/table.h"
#include "train/ranks_case.h"
#include "train/replicas.h"

static void compare_ranks(const ranks_case *c)
{
    ranks_result *one = run_on_ranks(c, 1);

    assert_true(fabs(one->loss[CASE_STEPS - 1] - one->loss[0]) > 1e-3); /* something is learned */
    for (int size = 2; size <= 4; size *= 2) {
        ranks_result *many = run_on_ranks(c, size);

        check_same(c, many, one, size);
        munmap(many, sizeof(*many));
    }
    munmap(one, sizeof(*one));
}

static void contrastive_steps_are_those_of_one_rank(void **state)
{
    static const ranks_case cases[] = {
        { "cpu", CSP_VARIANT_CAUSAL, true, false, CSP_POOLING_MAX, CSP_REG_FLOPS, CASE_STEPS, 1 },
        { "cpu", CSP_VARIANT_ECHO, false, false, CSP_POOLING_MAX, CSP_REG_L1, CASE_STEPS, 1 },
        { "cpu", CSP_VARIANT_BI, true, false, CSP_POOLING_SUM, CSP_REG_FLOPS, CASE_STEPS, 1 },
        { "cpu", CSP_VARIANT_CAUSAL, true, false, CSP_POOLING_MAX, CSP_REG_FLOPS, CASE_STEPS, 2 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        compare_ranks(&cases[i]);
    }
}

static void adaptation_steps_are_those_of_one_rank(void **state)
{
    static const ranks_case cases[] = {
        { "cpu", CSP_VARIANT_CAUSAL, true, true, CSP_POOLING_MAX, CSP_REG_FLOPS, CASE_STEPS, 1 },
        { "cpu", CSP_VARIANT_CAUSAL, false, true, CSP_POOLING_MAX, CSP_REG_FLOPS, CASE_STEPS, 1 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        compare_ranks(&cases[i]);
    }
}

/* Weights and losses to the last bit. */
static void check_bits(const ranks_result *got, const ranks_result *want, const char *what,
                       int size)
{
    if (memcmp(got->weights, want->weights, (size_t)want->count * sizeof(float)) != 0) {
        print_error("%s on %d ranks: weights are %g apart\n", what, size,
                    relative_distance(got->weights, want->weights, want->count));
    }
    assert_memory_equal(got->gradient, want->gradient, (size_t)want->count * sizeof(float));
    assert_memory_equal(got->weights, want->weights, (size_t)want->count * sizeof(float));
    assert_memory_equal(got->loss, want->loss, sizeof(got->loss));
}

/*
 * Sums are formed element by element in the order of ranks, however gradients are cut, and an
 * element is updated as it is on a rank that has all of them. Of a shared norm the last bits may
 * differ, which changes the float32 factor of clipping once in some hundred million steps: not in
 * these.
 */
static void neither_buckets_nor_parts_change_a_bit(void **state)
{
    static const ranks_case cases[] = {
        { "cpu", CSP_VARIANT_ECHO, false, false, CSP_POOLING_MAX, CSP_REG_FLOPS, 3, 1 },
        { "cpu", CSP_VARIANT_CAUSAL, false, true, CSP_POOLING_MAX, CSP_REG_FLOPS, 3, 1 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const int size = i == 0 ? 2 : 4;
        ranks_result *want = run_on_ranks(&cases[i], size);
        const int64_t bytes = want->state_bytes;

        /* Every layer for itself, and the upper ones together. */
        for (int64_t bucket = 1; bucket <= 40000; bucket *= 40000) {
            for (int shard = 0; shard < 2; shard++) {
                const case_way way = { .bucket_bytes = bucket, .shard = shard == 1 };
                ranks_result *got = run_on_ranks_as(&cases[i], size, &way);

                check_bits(got, want, shard == 1 ? "parts" : "buckets", size);
                /* Unused elements at the end of a bucket are 15 a rank, and so are those of rows;
                   two moments of 4 bytes each. */
                assert_true(shard == 0 ? got->state_bytes == bytes
                                       : got->state_bytes >= bytes / size - 8 * 16 * 4 &&
                                             got->state_bytes <= bytes / size + 8 * 16 * 4);
                munmap(got, sizeof(*got));
            }
        }
        munmap(want, sizeof(*want));
    }
}

/* Gradients by hand, on one rank with a NaN that another rank has the part of. */
static void set_gradients(const tiny *t, const char *bad, bool here)
{
    static float values[CASE_WEIGHTS];

    for (int64_t i = 0; i < t->model->params->count; i++) {
        csp_param *row = &t->model->params->rows[i];

        for (int64_t j = 0; j < csp_tensor_count(&row->grad); j++) {
            values[j] = 0.01f * (float)(j % 7 + i % 3);
        }
        values[0] = here && strcmp(row->name, bad) == 0 ? NAN : values[0];
        assert_ok(csp_backend_upload(t->be, values, &row->grad));
    }
}

/* Whether every rank has zeros as gradients, and as moments where no update was made. */
static void check_skipped(const tiny *t, bool skipped)
{
    for (int64_t i = 0; i < t->model->params->count; i++) {
        const csp_param *row = &t->model->params->rows[i];
        float *g = tiny_download(t, &row->grad), *m = tiny_download(t, &row->m);

        for (int64_t j = 0; j < csp_tensor_count(&row->grad); j++) {
            assert_true(g[j] == 0.0f);
        }
        for (int64_t j = 1; j < row->own_count; j++) {
            assert_true((m[j] == 0.0f) == skipped || (j + row->own_first) % 7 + i % 3 == 0);
        }
        free(g);
        free(m);
    }
}

static int skipping_rank(int size)
{
    static const char bad[] = "model.layers.0.mlp.down_proj.weight";
    static float before[CASE_WEIGHTS], after[CASE_WEIGHTS];
    const csp_optim_settings settings = { .learning_rate = 0.001,
                                          .adam_epsilon = 1e-8,
                                          .adam_beta1 = 0.9,
                                          .adam_beta2 = 0.999,
                                          .max_grad_norm = 1.0 };
    const csp_comm_options options = { .timeout_s = 120.0 };
    const csp_tensor none = csp_tensor_none();
    csp_storage storage = { 0 };
    csp_optimizer *optimizer;
    csp_step_metrics metrics;
    csp_ranks ranks;
    csp_launch launch;
    csp_comm *comm;
    tiny t;

    assert_ok(csp_launch_find(&launch));
    assert_ok(csp_comm_create(&launch, &options, &comm));
    storage.sharing = (csp_sharing) { size, csp_comm_rank(comm), 1, 0 };
    tiny_open_stored(&t, "cpu", CSP_VARIANT_CAUSAL, false, storage);
    assert_ok(csp_ranks_open(comm, t.be, &ranks));
    assert_ok(csp_optimizer_create(t.be, t.model, &ranks, &optimizer));
    assert_ok(csp_optimizer_reset(optimizer));
    save_weights(&t, false, before);
    for (int k = 0; k < 2; k++) {
        csp_step_metrics_clear(&metrics, "test", k + 1, 2);
        set_gradients(&t, bad, k == 0 && ranks.rank == size - 1);
        assert_ok(csp_optimizer_step(optimizer, &settings, k + 1, 2, &none));
        assert_ok(csp_backend_sync(t.be));
        csp_optimizer_read(optimizer, &metrics);
        assert_ok(csp_values_await(t.model, t.model->params->config.L));
        save_weights(&t, false, after);
        assert_true(metrics.skipped == (k == 0 ? 1.0 : 0.0));
        assert_int_equal(memcmp(before, after, (size_t)t.count * sizeof(float)) == 0, k == 0);
        check_skipped(&t, k == 0);
        if (k == 0) {
            assert_string_equal(csp_optimizer_bad(optimizer), bad);
        }
    }
    assert_ok(csp_replicas_agree(&ranks, t.model));
    csp_optimizer_destroy(optimizer);
    csp_ranks_close(&ranks);
    tiny_close(&t);
    csp_comm_destroy(comm);
    return 0;
}

/* Its first element is of rank 0's part, or of no rank's but one: all of them make no update. */
static void what_is_not_finite_on_one_rank_makes_no_update_on_any(void **state)
{
    int at[3];

    (void)state;
    assert_true(ranks_run(skipping_rank, 3, 3, 600.0, at));
    for (int r = 0; r < 3; r++) {
        assert_int_equal(at[r], 0);
    }
}

/* What ranks of a test tell each other beside the communicator. */
static atomic_int *may_go_on;

static csp_status (*adamw_of_cpu)(csp_backend *be, csp_optim_tensor *tensors, int64_t count,
                                  const csp_adamw_args *args);

static void pause_ms(int ms)
{
    const struct timespec pause = { 0, ms * 1000000L };

    (void)nanosleep(&pause, NULL);
}

/* An update that, above the embedding, waits for the other rank, 20 s at most; in the second step
   it only takes its time. */
static csp_status late_adamw(csp_backend *be, csp_optim_tensor *tensors, int64_t count,
                             const csp_adamw_args *args)
{
    for (int i = 0; args->t == 1 && args->tensor > 0 && atomic_load(may_go_on) == 0 && i < 2000;
         i++) {
        pause_ms(10);
    }
    pause_ms(args->t == 2 ? 50 : 0);
    return adamw_of_cpu(be, tensors, count, args);
}

/* How many of a row's elements that are the other rank's part are not what they were. */
static int64_t arrived(const tiny *t, const csp_param *row, const float *before)
{
    const csp_params *params = t->model->params;
    float *now = tiny_download(t, &row->value);
    int64_t changed = 0;

    for (const csp_param *r = params->rows; r < row; r++) {
        before += csp_tensor_count(&r->value);
    }
    for (int64_t j = 0; j < csp_tensor_count(&row->value); j++) {
        if (j < row->own_first || j >= row->own_first + row->own_count) {
            changed += now[j] != before[j];
        }
    }
    free(now);
    return changed;
}

static int waiting_rank(int argument)
{
    static float before[CASE_WEIGHTS];
    static csp_ops late;
    const csp_optim_settings settings = { .learning_rate = 0.001,
                                          .adam_epsilon = 1e-8,
                                          .adam_beta1 = 0.9,
                                          .adam_beta2 = 0.999,
                                          .weight_decay = 0.01 };
    const csp_comm_options options = { .timeout_s = 120.0 };
    const csp_tensor none = csp_tensor_none();
    csp_optimizer *optimizer;
    csp_storage storage = { 0 };
    csp_ranks ranks;
    csp_launch launch;
    csp_comm *comm;
    tiny t;

    (void)argument;
    assert_ok(csp_launch_find(&launch));
    assert_ok(csp_comm_create(&launch, &options, &comm));
    storage.sharing = (csp_sharing) { 2, csp_comm_rank(comm), 1, 0 };
    tiny_open_stored(&t, "cpu", CSP_VARIANT_CAUSAL, false, storage);
    if (csp_comm_rank(comm) == 1) {
        late = *t.be->ops;
        adamw_of_cpu = late.adamw;
        late.adamw = late_adamw;
        t.be->ops = &late;
    }
    assert_ok(csp_ranks_open(comm, t.be, &ranks));
    assert_ok(csp_optimizer_create(t.be, t.model, &ranks, &optimizer));
    assert_ok(csp_optimizer_reset(optimizer));
    save_weights(&t, false, before);
    set_gradients(&t, "", false);
    assert_ok(csp_optimizer_step(optimizer, &settings, 1, 2, &none));
    assert_non_null(t.model->arrival);
    if (ranks.rank == 0) {
        const csp_param *top = t.model->params->layers[1].weight[CSP_MATRIX_DOWN];

        assert_ok(csp_values_await(t.model, -1));
        assert_true(arrived(&t, t.model->params->embed, before) > 0);
        assert_int_equal(arrived(&t, top, before), 0); /* not yet: it has not been updated */
        assert_non_null(t.model->arrival);
        atomic_store(may_go_on, 1);
        assert_ok(csp_values_await(t.model, t.model->params->config.L));
        assert_true(arrived(&t, top, before) > 0);
    } else {
        assert_ok(csp_values_await(t.model, t.model->params->config.L));
    }
    assert_null(t.model->arrival);
    /* Whoever reads all values awaits them. */
    set_gradients(&t, "", false);
    assert_ok(csp_optimizer_step(optimizer, &settings, 2, 2, &none));
    assert_non_null(t.model->arrival);
    assert_ok(csp_replicas_agree(&ranks, t.model));
    assert_null(t.model->arrival);
    csp_optimizer_destroy(optimizer);
    csp_ranks_close(&ranks);
    tiny_close(&t);
    csp_comm_destroy(comm);
    return 0;
}

/*
 * A step comes back while the values of another rank are still being updated, and each layer's are
 * there once they have been awaited.
 */
static void values_come_while_others_are_updated(void **state)
{
    int at[2];

    (void)state;
    may_go_on =
        mmap(NULL, sizeof(*may_go_on), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(may_go_on != MAP_FAILED);
    assert_true(ranks_run(waiting_rank, 0, 2, 600.0, at));
    assert_true(at[0] == 0 && at[1] == 0);
    munmap(may_go_on, sizeof(*may_go_on));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contrastive_steps_are_those_of_one_rank),
        cmocka_unit_test(adaptation_steps_are_those_of_one_rank),
        cmocka_unit_test(neither_buckets_nor_parts_change_a_bit),
        cmocka_unit_test(what_is_not_finite_on_one_rank_makes_no_update_on_any),
        cmocka_unit_test(values_come_while_others_are_updated),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
