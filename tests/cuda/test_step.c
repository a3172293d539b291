/*
 * test_step.c - how a whole training step of a tiny model uses a device: the host waits once, and
 * nothing is allocated after the first step; where hidden states are not finite the device makes no
 * update, though the host learns of it only afterwards; inputs of products in 8 bits are rounded by
 * the ops that make them.
 */
#include "train/tiny_phase.h"

#ifdef CSPLADE_EMULATED
#include "emulator/control.h"
#endif
#include "device.h"

/* What each build has time for. */
#if defined(__SANITIZE_THREAD__)
enum { STEPS = 2, FP8_STEPS = 1, PATHS = 0 };
#elif defined(__SANITIZE_ADDRESS__)
enum { STEPS = 4, FP8_STEPS = 2, PATHS = 0 };
#else
enum { STEPS = 4, FP8_STEPS = 2, PATHS = 1 };
#endif

/* Times that the host waited and memory was taken: as the backend counts, and as the emulator. */
typedef struct counts {
    int64_t waits, allocations;
} counts;

/* A phase, and what was counted before the last step. */
typedef struct phase {
    tiny_phase run;
    counts told, seen;
} phase;

static counts told_by(const tiny *t)
{
    const cuda_state *device = cuda_state_of(t->be);

    return (counts) { device->waits, device->allocations };
}

/* The emulator knows, too, of waits that nobody asked for, and of memory that libraries take. */
static counts seen_by(const tiny *t)
{
#ifdef CSPLADE_EMULATED
    (void)t;
    return (counts) { (int64_t)emu_synchronisations(), (int64_t)emu_allocations() };
#else
    return told_by(t);
#endif
}

static csp_status run_step(phase *p, int64_t k, csp_step_metrics *m)
{
    p->told = told_by(p->run.t);
    p->seen = seen_by(p->run.t);
    return tiny_phase_step(&p->run, k, m);
}

static void assert_waits_and_allocations(const phase *p, int64_t waits, int64_t allocations)
{
    const counts told = told_by(p->run.t), seen = seen_by(p->run.t);

    assert_int_equal(told.waits - p->told.waits, waits);
    assert_int_equal(told.allocations - p->told.allocations, allocations);
    assert_int_equal(seen.waits - p->seen.waits, waits);
    assert_int_equal(seen.allocations - p->seen.allocations, allocations);
}

static void a_step_waits_once_and_allocates_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        const bool adapt = i % 2 == 0, lora = i / 2 == 1;
        csp_step_metrics m;
        phase p, next;
        tiny t;

        tiny_open_on(&t, "cuda:0", lora ? CSP_VARIANT_ECHO : CSP_VARIANT_CAUSAL, lora);
        tiny_phase_open(&p.run, &t, adapt, 0.7);
        assert_ok(run_step(&p, 1, &m));
        for (int64_t k = 2; k <= STEPS; k++) {
            assert_ok(run_step(&p, k, &m));
            assert_waits_and_allocations(&p, 1, 0);
            assert_true(m.loss > 0.0 && m.grad_norm > 0.0 && m.skipped == 0.0);
        }
        if (!adapt) {
            /* The first step of a run waits once more; a resumed one remembers. */
            tiny_phase_open(&next.run, &t, false, 0.7);
            assert_ok(run_step(&next, STEPS + 1, &m));
            assert_waits_and_allocations(&next, 2, 0);
            tiny_phase_close(&next.run);
            tiny_phase_open(&next.run, &t, false, 0.7);
            csp_health_recall(csp_contrastive_health(next.run.contrastive),
                              csp_health_remembers(csp_contrastive_health(p.run.contrastive)));
            assert_ok(run_step(&next, STEPS + 2, &m));
            assert_waits_and_allocations(&next, 1, 0);
            tiny_phase_close(&next.run);
        }
        tiny_phase_close(&p.run);
        tiny_close(&t);
    }
}

/* A way through a step that is not the standard one; zeros are. */
typedef struct path {
    const char *name;
    bool adapt, lora, bf16, fp8, tunes;
    csp_variant variant;
    csp_graphs graphs;
    csp_pool_way way;
    csp_keep keep;
    size_t budget;
    csp_reg_kind regularizer;
} path;

static const path paths[] = {
    { .name = "bf16", .bf16 = true, .graphs = CSP_GRAPHS_OFF },
    { .name = "bf16, replayed", .bf16 = true, .lora = true, .graphs = CSP_GRAPHS_ON },
    { .name = "adapting, replayed", .adapt = true, .bf16 = true, .graphs = CSP_GRAPHS_ON },
    { .name = "fp8", .lora = true, .fp8 = true, .graphs = CSP_GRAPHS_ON },
    { .name = "bidirectional", .variant = CSP_VARIANT_BI, .lora = true },
    { .name = "all kept", .budget = (size_t)64 << 20 },
    { .name = "nothing kept between the passes", .keep = CSP_KEEP_INPUTS, .budget = 1 },
    { .name = "most kept", .keep = CSP_KEEP_MOST, .regularizer = CSP_REG_L1 },
    { .name = "lists", .way = CSP_POOL_LISTS },
    { .name = "stream", .way = CSP_POOL_STREAM, .bf16 = true },
    { .name = "tiles", .way = CSP_POOL_TILES },
    { .name = "timed products", .tunes = true, .graphs = CSP_GRAPHS_ON },
};

static void on_every_path_it_waits_once_and_allocates_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]) && PATHS; i++) {
        const path *way = &paths[i];
        const csp_storage storage = { .dtype = way->bf16 ? CSP_BF16 : CSP_F32,
                                      .fp8 = way->fp8,
                                      .apart = true };
        csp_step_metrics m;
        phase p;
        tiny t;

        print_message("%s\n", way->name);
        tiny_open_sized(&t, "cuda:0", way->variant, way->lora, storage, true);
        if (way->fp8 && !t.be->fp8) {
            tiny_close(&t);
            continue;
        }
        t.be->tune_products = way->tunes;
        assert_ok(csp_graph_choose(t.be, way->graphs));
        assert_ok(csp_sparse_pool_choose(t.be, way->way));
        tiny_phase_open_kept(&p.run, &t, way->adapt, 0.7, way->keep,
                             way->budget > 0 ? way->budget : 300000, way->regularizer);
        assert_ok(run_step(&p, 1, &m));
        /* The second records what the third replays. */
        for (int64_t k = 2; k <= (way->graphs == CSP_GRAPHS_ON ? 3 : 2); k++) {
            assert_ok(run_step(&p, k, &m));
            assert_waits_and_allocations(&p, 1, 0);
            assert_true(m.loss > 0.0 && m.grad_norm > 0.0 && m.skipped == 0.0);
        }
        tiny_phase_close(&p.run);
        tiny_close(&t);
    }
}

/* All that training changes, one after the other. The caller frees it. */
static float *state_of(const tiny *t)
{
    float *all = malloc((size_t)t->count * 3 * sizeof(*all));
    int64_t at = 0;

    assert_non_null(all);
    for (int64_t i = 0; i < t->model->params->count; i++) {
        const csp_param *row = &t->model->params->rows[i];
        const csp_tensor *parts[] = { &row->value, &row->m, &row->v };

        for (int k = 0; row->trained && k < 3; k++) {
            assert_ok(csp_backend_download(t->be, parts[k], all + at));
            at += csp_tensor_count(parts[k]);
        }
    }
    return all;
}

/*
 * Squares of one row overflow in the last norm, which makes that row's hidden state 0: losses and
 * gradients of all others are finite, and would be taken for good.
 */
static void what_is_not_finite_changes_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        float *before, *after, *values;
        csp_step_metrics m;
        csp_param *row;
        phase p;
        tiny t;

        tiny_open_on(&t, "cuda:0", CSP_VARIANT_CAUSAL, false);
        for (int64_t n = 0; n < t.passages.start[t.passages.count]; n++) {
            t.passages.ids[n] %= TINY_V - 1;
        }
        for (int64_t n = 0; n < t.queries.start[t.queries.count]; n++) {
            t.queries.ids[n] %= TINY_V - 1;
        }
        t.passages.ids[t.passages.start[3]] = TINY_V - 1;
        row = t.model->params->embed;
        values = tiny_download(&t, &row->value);
        values[(TINY_V - 1) * 24 + 5] = 1e30f;
        assert_ok(csp_backend_upload(t.be, values, &row->value));
        tiny_phase_open(&p.run, &t, i == 0, 0.7);
        before = state_of(&t);
        assert_int_equal(run_step(&p, 17, &m), CSP_ERR_NUMERIC);
        assert_error_has("step 17: hidden states are not finite, first at token 0 of text 3");
        after = state_of(&t);
        assert_memory_equal(before, after, (size_t)t.count * 3 * sizeof(*after));
        free(before);
        free(after);
        free(values);
        tiny_phase_close(&p.run);
        tiny_close(&t);
    }
}

/* A table whose products round their input themselves, or not; and how many had it rounded. */
static csp_status (*genuine_fwd)(csp_backend *be, const csp_linear_group *group,
                                 csp_linear_rows *rows);
static bool rounds_again;
static int64_t rounded_before;

static csp_status watched_fwd(csp_backend *be, const csp_linear_group *group, csp_linear_rows *rows)
{
    csp_linear_rows given = *rows;

    rounded_before += rows->x8.q.ndim > 0;
    if (rounds_again) {
        given.x8 = (csp_fp8_rows) { csp_tensor_none(), csp_tensor_none() };
    }
    return genuine_fwd(be, group, &given);
}

/* All that FP8_STEPS change, and the kernels they launch. */
static char *steps_in_8_bits(bool again, size_t *bytes, uint64_t *launches)
{
    const csp_storage storage = { .fp8 = true, .apart = true };
    csp_step_metrics m;
    csp_ops table;
    tiny_phase run;
    char *all;
    tiny t;

    tiny_open_sized(&t, "cuda:0", CSP_VARIANT_ECHO, true, storage, true);
    table = *t.be->ops;
    genuine_fwd = table.linear_fwd;
    table.linear_fwd = watched_fwd;
    t.be->ops = &table;
    rounds_again = again;
    rounded_before = 0;
    assert_ok(csp_graph_choose(t.be, CSP_GRAPHS_OFF));
    tiny_phase_open(&run, &t, false, 0.7);
#ifdef CSPLADE_EMULATED
    *launches = emu_launches();
#endif
    for (int64_t k = 1; k <= FP8_STEPS; k++) {
        assert_ok(tiny_phase_step(&run, k, &m));
    }
#ifdef CSPLADE_EMULATED
    *launches = emu_launches() - *launches;
#endif
    tiny_phase_close(&run);
    all = tiny_state(&t, bytes);
    tiny_close(&t);
    return all;
}

static void inputs_in_8_bits_are_rounded_where_they_are_made(void **state)
{
    uint64_t once = 0, twice = 0;
    char *want, *got;
    size_t bytes, again;
    csp_backend *be;
    bool there;

    (void)state;
    assert_ok(csp_backend_create("cuda:0", 1, &be));
    there = be->fp8;
    csp_backend_destroy(be);
    if (!there) {
        skip();
    }
    want = steps_in_8_bits(true, &bytes, &twice);
    got = steps_in_8_bits(false, &again, &once);
    assert_int_equal(bytes, again);
    assert_memory_equal(got, want, bytes);
    /* q, k and v; gate and up; down: of two blocks and at least two micro-batches a step. */
    assert_true(rounded_before >= 3 * 2 * 2 * FP8_STEPS);
#ifdef CSPLADE_EMULATED
    assert_int_equal(twice - once, rounded_before);
#endif
    free(want);
    free(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_waits_once_and_allocates_nothing),
        cmocka_unit_test(on_every_path_it_waits_once_and_allocates_nothing),
        cmocka_unit_test(what_is_not_finite_changes_nothing),
        cmocka_unit_test(inputs_in_8_bits_are_rounded_where_they_are_made),
    };

    return tiny_main_on_cuda(tests, sizeof(tests) / sizeof(tests[0]), NULL, NULL);
}
