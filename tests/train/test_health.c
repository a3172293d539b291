/* test_health.c - counts over sparse rows by hand, and which of them become warnings, how often. */
#include "io/scratch.h"

#include "core/log.h"
#include "train/health.h"

enum { VOCAB = 6 };

/* Three queries {0,1}, {}, {1}; four documents {1,2,3}, {1}, {}, {1}. */
static const int64_t q_ptr[] = { 0, 2, 2, 3 }, d_ptr[] = { 0, 3, 4, 4, 5 };
static const int32_t q_count[VOCAB] = { 1, 2 }, d_count[VOCAB] = { 0, 3, 1, 1 };
/* Positions 0, 2, 0, 0, 1 won in documents. */
static const int64_t d_positions[CSP_POSITIONS] = { 3, 1, 1 };

static void look(csp_health *h, int64_t step, bool empty, csp_step_metrics *m)
{
    static const int64_t none[CSP_POSITIONS] = { 0 };
    static const int32_t no_count[VOCAB] = { 0 };
    const csp_health_side q = { 3, empty ? none : q_ptr, empty ? no_count : q_count, NULL };
    const csp_health_side d = { 4, empty ? none : d_ptr, empty ? no_count : d_count,
                                empty ? none : d_positions };

    csp_step_metrics_clear(m, "contrastive", step, 1000);
    csp_health_observe(h, step, &q, &d, m);
}

static void counts_are_those_by_hand(void **state)
{
    const csp_health_limits limits = { 1.01, 1.01, 1.01 };
    csp_health *h;
    csp_step_metrics m;

    (void)state;
    assert_ok(csp_health_create(VOCAB, &limits, &h));
    look(h, 1, false, &m);
    assert_true(m.active_q == 1.0 && m.active_q_max == 2.0 && m.zero_q == 1.0 / 3.0);
    assert_true(m.active_d == 1.25 && m.active_d_max == 3.0 && m.zero_d == 0.25);
    assert_true(m.active_d_p95 == 1.0); /* the row at (4 - 1) x 95 / 100 = 2 of 0, 1, 1, 3 */
    /* Term 1: two of three queries, three of four documents; no other is in both. */
    assert_true(fabs(m.index_flops - 2.0 * 3.0 / 12.0) <= 1e-15);
    assert_true(m.top_position == 3.0 / 5.0);
    assert_true(isnan(m.dead_terms));
    assert_true(csp_health_remembers(h)->active[0] == 1.0);
    assert_true(csp_health_remembers(h)->active[1] == 1.25);
    for (int64_t step = 2; step <= 101; step++) {
        look(h, step, step > 40, &m);
    }
    assert_true(m.dead_terms == 2.0 / VOCAB); /* 4 and 5 never, the others 61 steps ago */
    look(h, 140, true, &m);
    assert_true(m.dead_terms == 1.0 && isnan(m.top_position) && m.zero_d == 1.0);
    csp_health_destroy(h);
}

/* stderr of the warnings of some steps, into text. */
static void warnings_of(csp_health *h, csp_step_metrics *m, int64_t first, int64_t last, bool *out,
                        char *text, size_t bytes)
{
    const int saved = dup(STDERR_FILENO);
    FILE *file = tmpfile();
    size_t got;

    assert_non_null(file);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    for (m->step = first; m->step <= last; m->step++) {
        csp_health_warn(h, m, 16, out);
    }
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    rewind(file);
    got = fread(text, 1, bytes - 1, file);
    text[got] = '\0';
    fclose(file);
}

static int count_of(const char *text, const char *part)
{
    int count = 0;

    for (const char *at = strstr(text, part); at != NULL; at = strstr(at + 1, part)) {
        count++;
    }
    return count;
}

static void warnings_come_in_words_and_not_every_step(void **state)
{
    const csp_health_limits limits = { 0.5, 0.8, 0.99 };
    csp_health *h;
    csp_step_metrics m;
    bool collapsed;
    char text[8192];

    (void)state;
    assert_ok(csp_health_create(VOCAB, &limits, &h));
    csp_step_metrics_clear(&m, "contrastive", 1, 1000);
    warnings_of(h, &m, 1, 5, &collapsed, text, sizeof(text));
    assert_true(!collapsed && text[0] == '\0'); /* NaN is no warning */
    m.zero_q = 0.51;
    m.zero_d = 0.5;
    m.top_position = 0.81;
    m.dead_terms = 1.0;
    m.nce = log(16.0);
    warnings_of(h, &m, 1, 120, &collapsed, text, sizeof(text));
    assert_true(collapsed);
    assert_int_equal(count_of(text, "of the queries have no term at all: collapse"), 3);
    assert_int_equal(count_of(text, "of the documents have no term"), 0);
    assert_int_equal(count_of(text, "one position wins 81 % of all maxima"), 3);
    assert_int_equal(count_of(text, "was active in no text of the last 100 steps"), 3);
    assert_int_equal(count_of(text, "at chance level (ln 16 = 2.773)"), 2); /* from step 51 on */
    m.zero_q = 0.0;
    m.zero_d = 0.6;
    m.lambda_d = 1e-3;
    warnings_of(h, &m, 400, 400, &collapsed, text, sizeof(text));
    assert_true(collapsed);
    assert_int_equal(count_of(text, "of the documents have no term at all: collapse; lower"), 1);
    m.lambda_d = 0.0; /* nothing has pressed weights down: another cause, other words */
    warnings_of(h, &m, 500, 500, &collapsed, text, sizeof(text));
    assert_true(collapsed);
    assert_int_equal(count_of(text, "though lambda_d is 0 here: their texts are empty"), 1);
    csp_health_destroy(h);
}

/* Steps first .. last of a panel; what the last one says of dead terms, as text for NaN's sake. */
static const char *dead_after(csp_health *h, int64_t first, int64_t last, csp_step_metrics *m)
{
    static char text[32];

    for (int64_t step = first; step <= last; step++) {
        look(h, step, step > 40, m);
    }
    snprintf(text, sizeof(text), "%.9g", m->dead_terms);
    return text;
}

static void a_panel_that_recalls_says_what_the_first_would_have(void **state)
{
    const csp_health_limits limits = { 0.5, 1.01, 1.01 };
    const int64_t none = 3;
    csp_health *first, *second;
    csp_health_memory memory;
    csp_hdf5 *file;
    csp_step_metrics m;
    bool collapsed;
    char text[4096];

    (void)state;
    assert_ok(csp_health_create(VOCAB, &limits, &first));
    assert_string_equal(dead_after(first, 1, 60, &m), "nan");
    warnings_of(first, &m, 60, 60, &collapsed, text, sizeof(text));
    assert_int_equal(count_of(text, "queries have no term"), 1);
    assert_ok(csp_hdf5_create(scratch_path("h.h5"), &file));
    assert_ok(csp_health_memory_write(file, csp_health_remembers(first)));
    assert_ok(csp_hdf5_commit(file));
    assert_ok(csp_hdf5_open(scratch_path("h.h5"), &file));
    assert_int_equal(csp_health_memory_read(file, none, &memory), CSP_ERR_SHAPE);
    assert_ok(csp_health_memory_read(file, VOCAB, &memory));
    csp_hdf5_close(file);
    assert_true(memory.active[0] == 0.0 && memory.active[1] == 0.0); /* step 60 is empty */
    assert_ok(csp_health_create(VOCAB, &limits, &second));
    assert_true(csp_health_remembers(second)->active[0] == -1.0);
    csp_health_recall(second, &memory);
    assert_true(csp_health_remembers(second)->active[1] == 0.0);
    csp_health_memory_clear(&memory);
    assert_string_equal(dead_after(second, 61, 101, &m), "0.333333333"); /* 4 and 5 never */
    assert_string_equal(dead_after(second, 102, 140, &m), "1");
    assert_string_equal(dead_after(first, 61, 140, &m), "1");
    m.zero_q = 1.0;
    warnings_of(second, &m, 100, 109, &collapsed, text, sizeof(text));
    assert_int_equal(count_of(text, "queries have no term"), 0); /* 50 steps after the other's */
    warnings_of(second, &m, 110, 110, &collapsed, text, sizeof(text));
    assert_int_equal(count_of(text, "queries have no term"), 1);
    csp_health_destroy(first);
    csp_health_destroy(second);
}

static void a_file_without_a_panel_gives_no_memory_and_odd_steps_are_cut(void **state)
{
    const int64_t odd[VOCAB] = { INT64_MIN, -1, 0, 7 }, vocab = VOCAB;
    const int64_t warned[CSP_HEALTH_WARNINGS] = { INT64_MIN };
    csp_tensor steps = csp_tensor_view((void *)(uintptr_t)odd, CSP_I64, 1, &vocab);
    csp_health_memory memory;
    csp_hdf5 *file;

    (void)state;
    assert_ok(csp_hdf5_create(scratch_path("n.h5"), &file));
    assert_ok(csp_hdf5_commit(file));
    assert_ok(csp_hdf5_open(scratch_path("n.h5"), &file));
    assert_ok(csp_health_memory_read(file, VOCAB, &memory));
    csp_hdf5_close(file);
    assert_int_equal(memory.vocab, 0);
    csp_health_memory_clear(&memory);
    assert_ok(csp_hdf5_create(scratch_path("n.h5"), &file));
    assert_ok(csp_hdf5_write(file, "/health/last_active", &steps));
    assert_ok(csp_hdf5_set_i64(file, "/health", "first_step", INT64_MIN));
    assert_ok(csp_hdf5_set_i64s(file, "/health", "warned", warned, CSP_HEALTH_WARNINGS));
    assert_ok(csp_hdf5_set_f64(file, "/health", "active_d", NAN));
    assert_ok(csp_hdf5_commit(file));
    assert_ok(csp_hdf5_open(scratch_path("n.h5"), &file));
    assert_ok(csp_health_memory_read(file, VOCAB, &memory));
    csp_hdf5_close(file);
    assert_int_equal(memory.last_active[0], 0);
    assert_int_equal(memory.last_active[3], 7);
    assert_int_equal(memory.first_step, -1);
    assert_int_equal(memory.warned[0], -CSP_HEALTH_QUIET_STEPS);
    assert_true(memory.active[0] == -1.0); /* not in older files */
    assert_true(memory.active[1] == -1.0); /* no count */
    csp_health_memory_clear(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_those_by_hand),
        cmocka_unit_test(warnings_come_in_words_and_not_every_step),
        cmocka_unit_test(a_panel_that_recalls_says_what_the_first_would_have),
        cmocka_unit_test(a_file_without_a_panel_gives_no_memory_and_odd_steps_are_cut),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
