/*
 * test_kept_rows.c - eval/kept_rows.h on a device or an emulated one: rows that are fetched while
 * the next micro-batch is under way are those that come when everything is waited for, and those of
 * the CPU.
 */
#include "train/tiny.h"

#include "eval/kept_rows.h"

/* What each build of the emulator has time for. */
#if defined(__SANITIZE_THREAD__)
enum { BATCHES = 3, STORAGES = 1, LEAST_CUT = 7 };
#else
enum { BATCHES = 5, STORAGES = 2, LEAST_CUT = 0 };
#endif
enum { MOST_TEXTS = 6, CUT = 7, ROWS = 160 };

/* Micro-batches of passages first .. last-1; the last passage is empty, and once alone. */
static const struct {
    int64_t first, last;
} cuts[] = { { 0, 3 }, { 3, 9 }, { 10, 11 }, { 9, 11 }, { 2, 4 } };

/* What came of one micro-batch, copied. */
typedef struct came {
    int64_t texts, bad_row, row_ptr[MOST_TEXTS + 1];
    int32_t term[MOST_TEXTS * TINY_V];
    float weight[MOST_TEXTS * TINY_V];
} came;

typedef struct encoding {
    tiny t;
    csp_run *run;
    csp_arena step;
    csp_batch batch;
    csp_head head;
    csp_kept_rows *kept;
} encoding;

static void open_encoding(encoding *e, const char *device, csp_storage storage, int64_t top_k)
{
    const csp_kept_limits limits = { MOST_TEXTS, top_k };
    const csp_tensor none = csp_tensor_none();
    size_t bytes;

    memset(e, 0, sizeof(*e));
    tiny_open_stored(&e->t, device, CSP_VARIANT_ECHO, true, storage);
    assert_ok(csp_run_create(e->t.model->params, CSP_KEEP_NOTHING, &e->run));
    assert_ok(csp_run_bytes(e->t.model->params, ROWS, CSP_KEEP_NOTHING, &bytes));
    assert_ok(csp_backend_reserve(e->t.be, bytes + 64 * ROWS, &e->step));
    assert_ok(csp_kept_rows_create(e->t.be, e->t.model->params, &limits, &e->kept));
    e->head = csp_model_head(e->t.model, 1.0f, CSP_POOL_MAX, &none);
}

static void close_encoding(encoding *e)
{
    csp_kept_rows_destroy(e->kept);
    csp_backend_release(e->t.be, &e->step);
    csp_batch_clear(&e->batch);
    csp_run_destroy(e->run);
    tiny_close(&e->t);
}

/* Enqueues the hidden states of micro-batch i. */
static void start(encoding *e, int i, csp_pool_texts *texts)
{
    csp_batch *b = &e->batch;
    csp_pack pack = { .order = csp_tensor_none(), .row_key = csp_tensor_none() };
    const csp_pass pass = { .causal = true };

    assert_ok(
        csp_batch_pack(&e->t.contract, &e->t.passages, cuts[i].first, cuts[i].last, NULL, 0, b));
    e->step.used = 0;
    assert_ok(csp_arena_tensor(&e->step, CSP_I32, 1, &b->N, &pack.token));
    assert_ok(csp_arena_tensor(&e->step, CSP_I32, 1, (int64_t[]) { b->B + 1 }, &pack.seq_start));
    assert_ok(csp_arena_tensor(&e->step, CSP_U8, 1, &b->N, &texts->keep));
    assert_ok(csp_run_place(e->run, b->N, &e->step));
    assert_ok(csp_backend_upload(e->t.be, b->tokens, &pack.token));
    assert_ok(csp_backend_upload(e->t.be, b->seq_start, &pack.seq_start));
    assert_ok(csp_backend_upload(e->t.be, b->keep, &texts->keep));
    pack.longest = texts->longest = b->max_len;
    texts->seq_start = pack.seq_start;
    texts->kept = b->kept;
    if (b->N > 0) {
        assert_ok(csp_model_fwd(e->t.model, &pack, &pass, e->run));
    }
}

static void fetch(encoding *e, came *out)
{
    csp_fetched_rows rows;
    int64_t nnz;

    assert_ok(csp_kept_rows_fetch(e->kept, &rows));
    nnz = rows.row_ptr[rows.texts];
    assert_true(rows.texts <= MOST_TEXTS && nnz <= MOST_TEXTS * TINY_V);
    memset(out, 0, sizeof(*out));
    out->texts = rows.texts;
    out->bad_row = rows.bad_row;
    memcpy(out->row_ptr, rows.row_ptr, (size_t)(rows.texts + 1) * sizeof(int64_t));
    if (nnz > 0) {
        memcpy(out->term, rows.term, (size_t)nnz * sizeof(int32_t));
        memcpy(out->weight, rows.weight, (size_t)nnz * sizeof(float));
    }
}

/* All micro-batches; beside: the rows of one are fetched when the next is under way. */
static void run_all(encoding *e, int64_t top_k, bool beside, came out[BATCHES])
{
    for (int i = 0; i < BATCHES; i++) {
        csp_pool_texts texts;

        start(e, i, &texts);
        if (beside && i > 0) {
            fetch(e, &out[i - 1]);
        }
        assert_ok(csp_kept_rows_pool(e->kept, e->t.model, &e->head, e->run, &texts, top_k));
        if (!beside) {
            assert_ok(csp_backend_sync(e->t.be));
            fetch(e, &out[i]);
        }
    }
    if (beside) {
        fetch(e, &out[BATCHES - 1]);
    }
}

static const csp_storage f32 = { .dtype = CSP_F32 }, bf16 = { .dtype = CSP_BF16 };
static came rows[BATCHES], again[BATCHES];

static void fetching_beside_work_changes_no_bit(void **state)
{
    const csp_storage storages[] = { f32, bf16 };

    (void)state;
    for (int i = 0; i < STORAGES; i++) {
        encoding e;

        open_encoding(&e, "cuda:0", storages[i], CUT);
        for (int64_t cut = LEAST_CUT; cut <= CUT; cut += CUT) {
            run_all(&e, cut, true, rows);
            run_all(&e, cut, false, again);
            assert_memory_equal(rows, again, sizeof(rows));
            assert_int_equal(rows[2].row_ptr[1], 0);
            assert_true(rows[1].row_ptr[1] > (cut > 0 ? 0 : CUT));
            for (int b = 0; b < BATCHES; b++) {
                assert_int_equal(rows[b].texts, cuts[b].last - cuts[b].first);
                assert_int_equal(rows[b].bad_row, -1);
            }
        }
        close_encoding(&e);
    }
}

static float weight_of(const came *c, int64_t text, int32_t term)
{
    for (int64_t i = c->row_ptr[text]; i < c->row_ptr[text + 1]; i++) {
        if (c->term[i] == term) {
            return c->weight[i];
        }
    }
    return 0.0f;
}

/*
 * In float32: a term that one side keeps and the other does not is at the edge of the cut, where
 * weights agree to rounding; all others have the same weights to rounding. Weights are below 8.
 */
static void rows_are_those_of_the_cpu(void **state)
{
    static came cpu[BATCHES], all[BATCHES];
    double apart;
    encoding e;

    (void)state;
    open_encoding(&e, "cpu", f32, CUT);
    apart = 8.0 * 2.0 * UNIT_F32 * tiny_roundings(&e.t);
    run_all(&e, CUT, true, cpu);
    run_all(&e, 0, true, all);
    close_encoding(&e);
    open_encoding(&e, "cuda:0", f32, CUT);
    run_all(&e, CUT, true, rows);
    close_encoding(&e);
    for (int b = 0; b < BATCHES; b++) {
        for (int64_t text = 0; text < cpu[b].texts; text++) {
            const int64_t from = cpu[b].row_ptr[text], end = cpu[b].row_ptr[text + 1];
            float least = INFINITY;

            for (int64_t i = from; i < end; i++) {
                least = fminf(least, cpu[b].weight[i]);
            }
            assert_int_equal(rows[b].row_ptr[text + 1] - rows[b].row_ptr[text], end - from);
            for (int32_t v = 0; v < TINY_V; v++) {
                const float got = weight_of(&rows[b], text, v), want = weight_of(&cpu[b], text, v);
                const double exact = (double)weight_of(&all[b], text, v);

                assert_true(exact < 8.0);
                if ((got > 0.0f) == (want > 0.0f)) {
                    assert_true(fabs((double)got - (double)want) <= apart);
                } else {
                    assert_true(fabs(exact - (double)least) <= 2.0 * apart);
                }
            }
        }
    }
}

/*
 * The embedding of one token holds a NaN: the first row that has it is named, or one before it in
 * the same text, which may see a weight of 0 times that NaN; in other micro-batches none.
 */
static void a_row_that_is_not_finite_is_named_with_its_micro_batch(void **state)
{
    encoding e;
    csp_param *embedding;
    float *values;
    int32_t token;

    (void)state;
    open_encoding(&e, "cuda:0", f32, CUT);
    embedding = e.t.model->params->embed;
    assert_ok(csp_batch_pack(&e.t.contract, &e.t.passages, cuts[1].first, cuts[1].last, NULL, 0,
                             &e.batch));
    token = e.batch.tokens[5];
    values = tiny_download(&e.t, &embedding->value);
    values[token * embedding->value.dim[1] + 3] = NAN;
    assert_ok(csp_backend_upload(e.t.be, values, &embedding->value));
    free(values);
    run_all(&e, CUT, true, rows);
    for (int b = 0; b < BATCHES; b++) {
        int64_t want = -1, first = -1;

        assert_ok(csp_batch_pack(&e.t.contract, &e.t.passages, cuts[b].first, cuts[b].last, NULL, 0,
                                 &e.batch));
        for (int64_t n = e.batch.N - 1; n >= 0; n--) {
            want = e.batch.tokens[n] == token ? n : want;
        }
        for (int64_t text = 0; want >= 0 && e.batch.seq_start[text] <= want; text++) {
            first = e.batch.seq_start[text];
        }
        assert_true(b != 1 || want >= 0);
        assert_in_range(rows[b].bad_row + 1, first + 1, want + 1);
    }
    close_encoding(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fetching_beside_work_changes_no_bit),
        cmocka_unit_test(rows_are_those_of_the_cpu),
        cmocka_unit_test(a_row_that_is_not_finite_is_named_with_its_micro_batch),
    };

    return tiny_main_on_cuda(tests, sizeof(tests) / sizeof(tests[0]), NULL, NULL);
}
