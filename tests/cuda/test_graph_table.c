/*
 * test_graph_table.c - when a pass is recorded as a CUDA graph, replayed, dropped and forgotten;
 * what cannot be recorded is enqueued as it is, and leaves nothing behind.
 */
#include "train/tiny_phase.h"

#ifdef CSPLADE_EMULATED
#include "emulator/control.h"
#endif
#include "device.h"
#include "ops/graph.h"
#include "ops/profile.h"
#include "ops/swiglu.h"

/* Whether be can be waited for, as it can unless a stream is still captured. */
static void assert_captures_nothing(csp_backend *be)
{
    assert_ok(csp_backend_sync(be));
}

/* A pass of one op, which counts how often it was enqueued, and may go wrong. */
typedef enum mishap {
    NONE,
    ERROR, /* what happens at its second call */
    WAITS,
    ALLOCATES,
    DOWNLOADS,
    UPLOADS,
    MISHAPS
} mishap;

typedef struct small_pass {
    csp_backend *be;
    csp_arena arena;
    csp_tensor gate, up, m; /* (rows,8) */
    uint64_t key[4];
    int64_t rows; /* what it says of itself */
    mishap mishap;
    int enqueued;
} small_pass;

static void small_open(small_pass *s, csp_backend *be, uint64_t id)
{
    const int64_t shape[] = { 5, 8 };
    float values[5 * 8];

    *s = (small_pass) { .be = be, .key = { id }, .rows = 5 };
    assert_ok(csp_backend_reserve(be, 4096, &s->arena));
    assert_ok(csp_arena_tensor(&s->arena, CSP_F32, 2, shape, &s->gate));
    assert_ok(csp_arena_tensor(&s->arena, CSP_F32, 2, shape, &s->up));
    assert_ok(csp_arena_tensor(&s->arena, CSP_F32, 2, shape, &s->m));
    for (int i = 0; i < 40; i++) {
        values[i] = (float)i;
    }
    assert_ok(csp_backend_upload(be, values, &s->gate));
}

static csp_status go_wrong(small_pass *s)
{
    static float values[5 * 8];
    csp_arena arena;

    switch (s->mishap) {
    case ERROR:
        return CSP_FAIL(CSP_ERR_NUMERIC, "as asked for");
    case WAITS:
        return csp_backend_sync(s->be);
    case ALLOCATES:
        return csp_backend_reserve(s->be, 64, &arena);
    case DOWNLOADS:
        return csp_backend_download(s->be, &s->gate, values);
    case UPLOADS:
        return csp_backend_upload(s->be, values, &s->m);
    default:
        return CSP_OK;
    }
}

static csp_status enqueue_small(void *context)
{
    small_pass *s = context;

    s->enqueued++;
    if (s->mishap != NONE && s->enqueued == 2) {
        CSP_TRY(go_wrong(s));
    }
    return csp_swiglu_fwd(s->be, &s->gate, &s->up, &s->m);
}

/* Runs it with other operands than before, and looks at what comes out. */
static void small_run(small_pass *s, float factor)
{
    const csp_graph_call call = { .name = "small_pass",
                                  .key = s->key,
                                  .key_count = 4,
                                  .rows = s->rows,
                                  .enqueue = enqueue_small,
                                  .context = s };
    float up[5 * 8], m[5 * 8];

    for (int i = 0; i < 40; i++) {
        up[i] = factor;
    }
    assert_ok(csp_backend_upload(s->be, up, &s->up));
    assert_ok(csp_graph_run(s->be, &call));
    assert_ok(csp_backend_download(s->be, &s->m, m));
    for (int i = 0; i < 40; i++) {
        const double silu = (double)i / (1.0 + exp(-(double)i));

        assert_true(fabs((double)m[i] - silu * (double)factor) <=
                    8.0 * UNIT_F32 * fabs(silu * (double)factor));
    }
}

static csp_backend *open_device(void)
{
    csp_backend *be;

    devices_register();
    assert_ok(csp_backend_create("cuda:0", 1, &be));
    return be;
}

static void a_pass_is_recorded_at_its_second_sight_and_then_replayed(void **state)
{
    csp_backend *be = open_device();
    small_pass s;

    (void)state;
    small_open(&s, be, 1);
    for (int i = 0; i < 5; i++) {
#ifdef CSPLADE_EMULATED
        const uint64_t launches = emu_launches();
#endif
        small_run(&s, (float)(i + 1));
        assert_int_equal(s.enqueued, i < 2 ? i + 1 : 2);
        assert_int_equal(be->replayed, i);
#ifdef CSPLADE_EMULATED
        assert_int_equal(emu_launches() - launches, i < 2);
#endif
    }
    assert_int_equal(cuda_state_of(be)->graphs.recorded, 1);
    csp_backend_release(be, &s.arena);
    csp_backend_destroy(be);
}

/* How often four runs of one key enqueue. */
static int enqueued_in_four(csp_backend *be, int64_t rows)
{
    static uint64_t id = 1000;
    small_pass s;

    small_open(&s, be, id++);
    s.rows = rows;
    for (int i = 0; i < 4; i++) {
        small_run(&s, (float)i);
    }
    /* Not released here: what else is recorded would be forgotten. */
    return s.enqueued;
}

static void the_setting_says_which_passes_are_replayed(void **state)
{
    csp_backend *be = open_device(), *cpu;
    csp_profile *profile;

    (void)state;
    assert_int_equal(be->graphs, CSP_GRAPHS_AUTO);
    assert_int_equal(enqueued_in_four(be, CSP_GRAPH_ROWS), 2);
    assert_int_equal(enqueued_in_four(be, CSP_GRAPH_ROWS + 1), 4);
    assert_ok(csp_graph_choose(be, CSP_GRAPHS_ON));
    assert_int_equal(enqueued_in_four(be, CSP_GRAPH_ROWS + 1), 2);
    be->sync_every_op = true;
    assert_int_equal(enqueued_in_four(be, 1), 4);
    be->sync_every_op = false;
    assert_ok(csp_profile_create(be, &profile));
    assert_ok(csp_profile_start(profile));
    assert_int_equal(enqueued_in_four(be, 1), 4);
    assert_ok(csp_profile_stop(profile));
    csp_profile_destroy(profile);
    assert_ok(csp_graph_choose(be, CSP_GRAPHS_OFF));
    assert_int_equal(enqueued_in_four(be, 1), 4);
    assert_int_equal(cuda_state_of(be)->graphs.recorded, 2);
    csp_backend_destroy(be);

    assert_ok(csp_backend_create("cpu", 1, &cpu));
    assert_int_equal(enqueued_in_four(cpu, 1), 4);
    assert_ok(csp_graph_choose(cpu, CSP_GRAPHS_OFF));
    assert_int_equal(csp_graph_choose(cpu, CSP_GRAPHS_ON), CSP_ERR_UNSUPPORTED);
    assert_error_has("device.graphs is of a GPU: cpu has no launches");
    csp_backend_destroy(cpu);
}

static void the_pass_used_longest_ago_gives_its_place_away(void **state)
{
    enum { MORE = CUDA_GRAPHS + 1 };
    csp_backend *be = open_device();
    const cuda_graphs *graphs = &cuda_state_of(be)->graphs;
    static small_pass s[MORE];

    (void)state;
    for (int i = 0; i < MORE; i++) {
        small_open(&s[i], be, (uint64_t)i);
    }
    /* One after the other in a circle too large for the table: none is ever found. */
    for (int i = 0; i < 2 * MORE; i++) {
        small_run(&s[i % MORE], 1.0f);
    }
    assert_int_equal(graphs->recorded, 0);
    /* The last of them are in the table. */
    for (int i = 1; i < MORE; i++) {
        small_run(&s[i], 2.0f);
    }
    assert_int_equal(graphs->recorded, CUDA_GRAPHS);
    small_run(&s[1], 3.0f);
    small_run(&s[0], 3.0f);
    assert_int_equal(graphs->dropped, 1);
    for (int i = 1; i < MORE; i++) {
        const int before = s[i].enqueued;

        if (i != 2) {
            small_run(&s[i], 4.0f);
            assert_int_equal(s[i].enqueued, before);
        }
    }
    small_run(&s[2], 5.0f);
    small_run(&s[2], 6.0f);
    assert_int_equal(graphs->recorded, CUDA_GRAPHS + 1);
    csp_backend_destroy(be);
}

static void released_memory_is_forgotten(void **state)
{
    csp_backend *be = open_device();
    small_pass s, other;

    (void)state;
    small_open(&s, be, 1);
    small_open(&other, be, 2);
    for (int i = 0; i < 3; i++) {
        small_run(&s, (float)i);
    }
    csp_backend_release(be, &other.arena);
    assert_int_equal(cuda_state_of(be)->graphs.dropped, 1);
    small_run(&s, 4.0f);
    assert_int_equal(cuda_state_of(be)->graphs.recorded, 1);
    small_run(&s, 5.0f);
    assert_int_equal(cuda_state_of(be)->graphs.recorded, 2);
    csp_backend_destroy(be);
}

static void what_cannot_be_recorded_is_enqueued_as_it_is(void **state)
{
    csp_backend *be = open_device();

    (void)state;
    for (int m = ERROR; m < MISHAPS; m++) {
        small_pass s;

        small_open(&s, be, (uint64_t)m);
        s.mishap = (mishap)m;
        for (int i = 0; i < 4; i++) {
            small_run(&s, (float)i);
            assert_captures_nothing(be);
            assert_false(cuda_state_of(be)->graphs.recording);
        }
        /* The second sight tried, and did it again; nobody tries any more. */
        assert_int_equal(s.enqueued, 5);
        assert_int_equal(cuda_state_of(be)->graphs.recorded, 0);
        assert_int_equal(be->replayed, 0);
    }
    csp_backend_destroy(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pass_is_recorded_at_its_second_sight_and_then_replayed),
        cmocka_unit_test(the_setting_says_which_passes_are_replayed),
        cmocka_unit_test(the_pass_used_longest_ago_gives_its_place_away),
        cmocka_unit_test(released_memory_is_forgotten),
        cmocka_unit_test(what_cannot_be_recorded_is_enqueued_as_it_is),
    };

    return tiny_main_on_cuda(tests, sizeof(tests) / sizeof(tests[0]), NULL, NULL);
}
