/*
 * test_graphs.c - passes replayed as CUDA graphs: training and hidden states are the same bits with
 * and without, also after any call has failed. When passes are recorded is in test_graph_table.c.
 */
#include "train/tiny_phase.h"

#ifdef CSPLADE_EMULATED
#include "emulator/control.h"
#endif
#include "device.h"
#include "ops/graph.h"

/* What each build of the emulator has time for. */
#if defined(__SANITIZE_THREAD__)
enum { MOST = 3, SOME = 3, FEW = 3, PHASES = 1, STRIDE = 13 };
#elif defined(__SANITIZE_ADDRESS__)
enum { MOST = 4, SOME = 4, FEW = 3, PHASES = 6, STRIDE = 3 };
#else
enum { MOST = 20, SOME = 8, FEW = 4, PHASES = 6, STRIDE = 1 };
#endif

enum { LONG = 200 };

/* A table that counts what is asked to be run as a graph. */
static csp_status (*genuine_run)(csp_backend *be, const csp_graph_call *call);
static int64_t passes;

static csp_status counted_run(csp_backend *be, const csp_graph_call *call)
{
    passes++;
    return genuine_run(be, call);
}

static void count_passes(csp_backend *be, csp_ops *table)
{
    *table = *be->ops;
    genuine_run = table->graph_run;
    table->graph_run = counted_run;
    be->ops = table;
    passes = 0;
}

/* One of the phases of a training. */
typedef struct phase {
    csp_variant variant;
    bool adapt, lora, varied; /* varied: other texts in every step */
    bool grows;               /* grows: scratch moves to another address before the last step */
    csp_storage storage;
    int64_t steps;
} phase;

/* Scratch for more than all passes take, as rows that lie apart pass through it in an upload. */
static void grow_scratch(csp_backend *be)
{
    const int64_t rows = 1 << 10, columns = 1 << 9;
    csp_tensor wide, apart;
    csp_arena arena = { 0 };
    float *values = calloc((size_t)(rows * columns), sizeof(*values));

    assert_non_null(values);
    assert_ok(csp_backend_reserve(be, (size_t)(rows * 2 * columns) * sizeof(float), &arena));
    assert_ok(csp_arena_tensor(&arena, CSP_F32, 2, (int64_t[]) { rows, 2 * columns }, &wide));
    apart = csp_tensor_columns(&wide, 0, columns);
    assert_ok(csp_backend_upload(be, values, &apart));
    assert_ok(csp_backend_sync(be));
    /* Not released: that would make the backend forget more than its scratch. */
    free(values);
}

/* Trains; the losses, and all that training changed, as bytes. */
static char *train(const phase *p, csp_graphs graphs, double *loss, size_t *bytes, int64_t *replays)
{
    tiny_phase run;
    csp_ops table;
    char *all;
    tiny t;

    tiny_open_sized(&t, "cuda:0", p->variant, p->lora, p->storage, p->storage.fp8);
    assert_ok(csp_graph_choose(t.be, graphs));
    count_passes(t.be, &table);
    tiny_phase_open(&run, &t, p->adapt, 0.7);
    for (int64_t k = 1; k <= p->steps; k++) {
        csp_step_metrics m;

        if (p->varied) {
            csp_token_lists_clear(&t.passages);
            tiny_texts(&t.passages, TINY_PASSAGES, (uint32_t)(2 + k), -1);
        }
        assert_ok(tiny_phase_step(&run, k, &m));
        loss[k - 1] = m.loss;
        if (p->grows && k == p->steps - 1) {
            grow_scratch(t.be);
        }
    }
    if (graphs != CSP_GRAPHS_OFF) {
        const cuda_graphs *g = &cuda_state_of(t.be)->graphs;
        int64_t kinds = 0;

        for (int i = 0; i < CUDA_GRAPHS; i++) {
            kinds += g->place[i].key != NULL;
        }
        /* A pass of each kind was enqueued as it is; all others were replayed. */
        assert_int_equal(passes - t.be->replayed, kinds);
        assert_true(p->varied ? g->recorded > 0 : g->recorded - g->dropped == kinds);
        assert_true(!p->grows || g->dropped >= kinds);
    }
    *replays = t.be->replayed;
    tiny_phase_close(&run);
    all = tiny_state(&t, bytes);
    tiny_close(&t);
    return all;
}

static void steps_are_the_same_bits(const phase *p)
{
    double want_loss[MOST], loss[MOST];
    size_t want_bytes, bytes;
    int64_t none, replays;
    char *want = train(p, CSP_GRAPHS_OFF, want_loss, &want_bytes, &none);
    char *got = train(p, CSP_GRAPHS_AUTO, loss, &bytes, &replays);

    assert_int_equal(none, 0);
    assert_true(replays >= (p->varied ? p->steps - 1 : 4 * (p->steps - 1)));
    assert_memory_equal(loss, want_loss, (size_t)p->steps * sizeof(double));
    assert_int_equal(bytes, want_bytes);
    assert_memory_equal(got, want, bytes);
    free(want);
    free(got);
}

/* Whether the device has products of 8-bit floats. */
static bool multiplies_fp8(void)
{
    csp_backend *be;
    bool there;

    assert_ok(csp_backend_create("cuda:0", 1, &be));
    there = be->fp8;
    csp_backend_destroy(be);
    return there;
}

static void training_is_the_same_bits_with_graphs_and_without(void **state)
{
    const csp_storage f32 = { .dtype = CSP_F32 }, bf16 = { .dtype = CSP_BF16 };
    const csp_storage fp8 = { .dtype = CSP_BF16, .fp8 = true, .apart = true };
    const phase phases[] = {
        { CSP_VARIANT_CAUSAL, true, true, false, false, bf16, FEW },
        { CSP_VARIANT_ECHO, false, true, false, false, f32, MOST }, /* dropout, computed again */
        { CSP_VARIANT_BI, false, false, false, true, bf16, FEW },
        { CSP_VARIANT_CAUSAL, true, true, true, false, f32, SOME },
        { CSP_VARIANT_CAUSAL, true, true, false, true, f32, FEW },
        { CSP_VARIANT_CAUSAL, false, true, true, false, fp8, FEW }, /* computed again, too */
    };

    (void)state;
    for (size_t i = 0; i < PHASES; i++) {
        if (!phases[i].storage.fp8 || multiplies_fp8()) {
            steps_are_the_same_bits(&phases[i]);
        }
    }
}

/* Gradients of a step on a device. The caller frees them. */
static float *gradients_on(tiny *t, const char *device, bool adapts)
{
    csp_step_metrics m;
    tiny_phase run;
    float *all;

    tiny_open_on(t, device, CSP_VARIANT_CAUSAL, false);
    tiny_phase_open(&run, t, adapts, 0.7);
    assert_ok(tiny_phase_run(&run, 1, &m));
    assert_ok(csp_backend_sync(t->be));
    all = tiny_gradients(t);
    tiny_phase_close(&run);
    return all;
}

/* A CPU pads nothing. */
static void padding_adds_nothing_to_gradients(void **state)
{
    (void)state;
    for (int adapts = 0; adapts < 2; adapts++) {
        float *want, *got;
        tiny t;

        want = gradients_on(&t, "cpu", adapts != 0);
        tiny_close(&t);
        got = gradients_on(&t, "cuda:0", adapts != 0);
        tiny_close_to(&t, got, want);
        tiny_close(&t);
        free(want);
        free(got);
    }
}

/* A model for texts of up to LONG rows, in place of that of t. */
static void make_long(tiny *t, csp_storage storage)
{
    csp_model_config config = t->model->params->config;
    const csp_model_options m = {
        .config = &config, .storage = storage, .train = CSP_TRAIN_FULL, .seed = 3, .max_len = LONG
    };

    config.max_position = LONG;
    csp_model_destroy(t->model);
    assert_ok(csp_model_create(t->be, &m, &t->model));
}

#ifdef CSPLADE_EMULATED
/* The call that fails in the pass of hidden, 0: none; and how many there were. */
static int fail_at, calls_made;

static csp_status forward(const tiny *t, const csp_pack *pack, csp_run *run)
{
    const csp_pass pass = { .causal = true };
    csp_status status;

    emu_fail_call(fail_at);
    status = csp_model_fwd(t->model, pack, &pass, run);
    calls_made = emu_calls();
    emu_fail_call(0);
    return status;
}
#else
static csp_status forward(const tiny *t, const csp_pack *pack, csp_run *run)
{
    const csp_pass pass = { .causal = true };

    return csp_model_fwd(t->model, pack, &pass, run);
}
#endif

/* Two texts of these lengths through the model; all hidden states as they are stored. */
static float *hidden(tiny *t, csp_run *run, csp_arena *arena, const int64_t length[2], int32_t key)
{
    const int64_t N = length[0] + length[1], starts = 3;
    int32_t token[LONG], start[3] = { 0, (int32_t)length[0], (int32_t)N };
    csp_pack pack = { .row_key = csp_tensor_none(), .order = csp_tensor_none() };
    float *h = malloc((size_t)(N * t->model->params->config.D) * sizeof(*h));

    assert_non_null(h);
    for (int64_t n = 0; n < N; n++) {
        token[n] = (int32_t)((7 * n + key) % TINY_V);
    }
    assert_ok(csp_arena_tensor(arena, CSP_I32, 1, &N, &pack.token));
    assert_ok(csp_arena_tensor(arena, CSP_I32, 1, &starts, &pack.seq_start));
    assert_ok(csp_run_place(run, N, arena));
    assert_ok(csp_backend_upload(t->be, token, &pack.token));
    assert_ok(csp_backend_upload(t->be, start, &pack.seq_start));
    pack.longest = length[0] > length[1] ? length[0] : length[1];
    assert_ok(forward(t, &pack, run));
    assert_ok(csp_backend_download(t->be, &run->h, h));
    return h;
}

/* Where the longest text, or an address, is another, nothing else is, so a graph would be taken. */
static void passes_that_differ_in_one_thing_are_not_taken_for_each_other(void **state)
{
    static const int64_t lengths[][2] = { { 100, 100 }, { LONG - 1, 1 }, { 60, 140 } };
    enum { RUNS = 12 };
    float *want[RUNS];
    int64_t recorded = 0;

    (void)state;
    for (int graphs = 0; graphs < 2; graphs++) {
        csp_arena arena = { 0 };
        csp_run *run;
        size_t bytes;
        tiny t;

        tiny_open_on(&t, "cuda:0", CSP_VARIANT_CAUSAL, false);
        make_long(&t, (csp_storage) { .dtype = CSP_F32 });
        assert_ok(csp_graph_choose(t.be, graphs == 0 ? CSP_GRAPHS_OFF : CSP_GRAPHS_ON));
        assert_ok(csp_run_create(t.model->params, CSP_KEEP_NOTHING, &run));
        assert_ok(csp_run_bytes(t.model->params, LONG, CSP_KEEP_NOTHING, &bytes));
        assert_ok(csp_backend_reserve(t.be, 3 * bytes + 65536, &arena));
        for (int i = 0; i < RUNS; i++) {
            float *h;

            /* Three of each kind, the last kind somewhere else in the arena. */
            arena.used = i < 9 ? 0 : bytes + 32768;
            h = hidden(&t, run, &arena, lengths[i < 9 ? i / 3 : 2], i);
            if (graphs == 0) {
                want[i] = h;
            } else {
                assert_memory_equal(h, want[i], (size_t)LONG * 24 * sizeof(*h));
                free(h);
                free(want[i]);
            }
        }
        assert_int_equal(t.be->replayed, graphs == 0 ? 0 : 8);
        recorded = cuda_state_of(t.be)->graphs.recorded;
        csp_run_destroy(run);
        csp_backend_release(t.be, &arena);
        tiny_close(&t);
    }
    assert_int_equal(recorded, 4);
}

#ifdef CSPLADE_EMULATED
/* Calls of libraries that recording a pass makes fail, one at a time: it is enqueued then. */
static void a_failure_of_any_call_leaves_a_pass_that_works(void **state)
{
    const int64_t length[] = { 12, 8 };
    csp_arena arena = { 0 }, none;
    csp_run *run;
    size_t bytes;
    int failures = 0;
    bool all = false;
    float *want;
    tiny t;

    (void)state;
    tiny_open_stored(&t, "cuda:0", CSP_VARIANT_CAUSAL, false, (csp_storage) { .dtype = CSP_BF16 });
    assert_ok(csp_run_create(t.model->params, CSP_KEEP_NOTHING, &run));
    assert_ok(csp_run_bytes(t.model->params, 20, CSP_KEEP_NOTHING, &bytes));
    assert_ok(csp_backend_reserve(t.be, bytes + 65536, &arena));
    want = hidden(&t, run, &arena, length, 1);
    for (int n = 1; !all; n += STRIDE) {
        const int64_t recorded = cuda_state_of(t.be)->graphs.recorded;
        float *h;

        /* What is released is forgotten, so that the next sight is the first. */
        assert_ok(csp_backend_reserve(t.be, 64, &none));
        csp_backend_release(t.be, &none);
        for (int sight = 1; sight <= 3; sight++) {
            fail_at = sight == 2 ? n : 0;
            arena.used = 0;
            h = hidden(&t, run, &arena, length, 1);
            all = all || (sight == 2 && calls_made < n);
            assert_memory_equal(h, want, (size_t)20 * 24 * 2);
            free(h);
        }
        failures += cuda_state_of(t.be)->graphs.recorded == recorded;
    }
    /* A launch at least for each op of a block, begin, end, instantiation. */
    assert_true(failures * STRIDE > 2 * 8 + 3);
    free(want);
    csp_run_destroy(run);
    csp_backend_release(t.be, &arena);
    tiny_close(&t);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_is_the_same_bits_with_graphs_and_without),
        cmocka_unit_test(padding_adds_nothing_to_gradients),
        cmocka_unit_test(passes_that_differ_in_one_thing_are_not_taken_for_each_other),
#ifdef CSPLADE_EMULATED
        cmocka_unit_test(a_failure_of_any_call_leaves_a_pass_that_works),
#endif
    };

    return tiny_main_on_cuda(tests, sizeof(tests) / sizeof(tests[0]), NULL, NULL);
}
