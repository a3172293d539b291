/* test_vectors_quantised.c - vector files that hold impacts: both forms, and what is refused. */
#include "io/scratch.h"

#include "io/hdf5.h"
#include "io/vectors.h"

static const char *const endings[] = { "h5", "jsonl" };
static const csp_quant round100 = { CSP_QUANT_ROUND, 100.0 };

static const char *named(const char *stem, const char *ending)
{
    char name[64];

    snprintf(name, sizeof(name), "%s.%s", stem, ending);
    return scratch_path(name);
}

static csp_vectors_writer *begin(const char *path, csp_quant quant)
{
    const csp_vectors_head head = { 100, "document", "{\"top_k\":7}", quant };
    csp_vectors_writer *w;

    assert_ok(csp_vectors_create(path, &head, &w));
    return w;
}

static void impacts_read_back_with_scheme_scale_and_counts(void **state)
{
    static const csp_quant quants[] = { { CSP_QUANT_ROUND, 100.0 }, { CSP_QUANT_CEIL, 0.1 } };
    const csp_quant_counts counts = { .dropped = 3, .clipped = 1 }, more = { .dropped = 2 };
    const int32_t terms[] = { 0, 17, 99 };
    const float impacts[] = { 125.0f, 1.0f, (float)CSP_IMPACT_MOST };

    (void)state;
    for (int i = 0; i < 4; i++) {
        const char *path = named("impacts", endings[i % 2]);
        const csp_quant quant = quants[i / 2];
        csp_vectors_writer *w = begin(path, quant);
        csp_vectors *v;

        csp_vectors_count(w, &counts);
        csp_vectors_count(w, &more);
        assert_ok(csp_vectors_append(w, "d1", 3, terms, impacts));
        assert_ok(csp_vectors_append(w, "d2", 0, NULL, NULL));
        assert_ok(csp_vectors_append(w, "d3", 1, terms + 1, impacts));
        assert_ok(csp_vectors_commit(w));
        assert_ok(csp_vectors_read(path, &v));
        assert_true(csp_quant_equal(&v->quant, &quant));
        assert_int_equal(v->counts.dropped, 5);
        assert_int_equal(v->counts.clipped, 1);
        assert_int_equal(v->rows, 3);
        assert_memory_equal(v->term, ((int32_t[]) { 0, 17, 99, 17 }), 4 * sizeof(int32_t));
        assert_memory_equal(v->weight, ((float[]) { 125.0f, 1.0f, 0x1p24f, 125.0f }),
                            4 * sizeof(float));
        assert_string_equal(v->side, "document");
        assert_string_equal(v->meta, "{\"top_k\":7}");
        csp_vectors_free(v);
    }
}

/* HDF5 counts at the end of a part; rows enough that some are written before. */
static void counts_may_come_behind_rows_in_hdf5(void **state)
{
    const csp_quant_counts counts = { .dropped = 9 };
    const int32_t term = 5;
    const float impact = 300.0f;
    csp_vectors_writer *w = begin(named("late", "h5"), round100);
    csp_vectors *v;

    (void)state;
    for (int row = 0; row < 70000; row++) {
        char id[16];

        snprintf(id, sizeof(id), "%d", row);
        assert_ok(csp_vectors_append(w, id, row % 2, &term, &impact));
    }
    csp_vectors_count(w, &counts);
    assert_ok(csp_vectors_commit(w));
    assert_ok(csp_vectors_read(named("late", "h5"), &v));
    assert_int_equal(v->counts.dropped, 9);
    assert_int_equal(v->row_ptr[70000], 35000);
    for (int64_t i = 0; i < 35000; i++) {
        assert_true(v->weight[i] == 300.0f);
    }
    csp_vectors_free(v);
}

static void files_without_rows_read_back(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        csp_vectors *v;

        assert_ok(csp_vectors_commit(begin(named("none", endings[i]), round100)));
        assert_ok(csp_vectors_read(named("none", endings[i]), &v));
        assert_true(csp_quant_equal(&v->quant, &round100));
        assert_int_equal(v->rows, 0);
        csp_vectors_free(v);
    }
}

static void what_is_no_impact_is_not_written(void **state)
{
    static const csp_quant bad[] = { { CSP_QUANT_U8_MAX, 85.0 },
                                     { CSP_QUANT_ROUND, 0.0 },
                                     { CSP_QUANT_CEIL, -1.0 },
                                     { CSP_QUANT_ROUND, INFINITY } };
    static const float odd[] = { 1.5f, 0.5f, 16777218.0f };
    const int32_t term = 5;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const csp_vectors_head head = { 100, "query", NULL, bad[i] };
        csp_vectors_writer *w = NULL;

        assert_int_equal(csp_vectors_create(named("bad", endings[i % 2]), &head, &w),
                         CSP_ERR_ARGUMENT);
        assert_null(w);
    }
    for (size_t i = 0; i < 2 * sizeof(odd) / sizeof(odd[0]); i++) {
        csp_vectors_writer *w = begin(named("bad", endings[i % 2]), round100);

        assert_int_equal(csp_vectors_append(w, "d", 1, &term, &odd[i / 2]), CSP_ERR_ARGUMENT);
        assert_error_has("no whole number");
        csp_vectors_abandon(w);
    }
}

/* A file that is HDF5 and complete, with something in it that quantised vectors must not have. */
static void make_odd(const char *path, int what)
{
    int64_t indptr[] = { 0, 1, 2 }, shape[] = { 2, 10 };
    int32_t indices[] = { 3, 4 }, data[] = { 7, 8 };
    const char *ids[] = { "a", "b" };
    const int64_t ptrs = 3, nnz = 2;
    csp_hdf5 *file;
    csp_tensor t;

    data[1] = what == 1 ? 0 : what == 2 ? -3 : what == 3 ? CSP_IMPACT_MOST + 1 : 8;
    assert_ok(csp_hdf5_create(path, &file));
    assert_ok(csp_hdf5_set_text(file, "/", "format", "csplade-vectors"));
    assert_ok(csp_hdf5_set_i64(file, "/", "format_version", 1));
    if (what != 4) {
        assert_ok(csp_hdf5_set_text(file, "/", "quant_scheme", what == 5 ? "u8-max" : "round"));
    }
    if (what != 6) {
        assert_ok(csp_hdf5_set_f64(file, "/", "quant_scale", what == 7 ? -1.0 : 100.0));
    }
    assert_ok(csp_hdf5_set_i64(file, "/", "quant_dropped", 0));
    if (what != 8) {
        assert_ok(csp_hdf5_set_i64(file, "/", "quant_clipped", 0));
    }
    assert_ok(csp_hdf5_set_text(file, "/X", "encoding-type", "csr_matrix"));
    assert_ok(csp_hdf5_set_i64s(file, "/X", "shape", shape, 2));
    t = csp_tensor_view(indptr, CSP_I64, 1, &ptrs);
    assert_ok(csp_hdf5_write(file, "/X/indptr", &t));
    t = csp_tensor_view(indices, CSP_I32, 1, &nnz);
    assert_ok(csp_hdf5_write(file, "/X/indices", &t));
    t = csp_tensor_view(data, what == 9 ? CSP_F32 : CSP_I32, 1, &nnz);
    assert_ok(csp_hdf5_write(file, "/X/data", &t));
    assert_ok(csp_hdf5_write_strings(file, "/ids", ids, 2));
    assert_ok(csp_hdf5_commit(file));
}

static void hdf5_files_with_wrong_content_are_refused(void **state)
{
    csp_vectors *v = NULL;

    (void)state;
    make_odd(scratch_path("odd.h5"), 0);
    assert_ok(csp_vectors_read(scratch_path("odd.h5"), &v));
    assert_true(v->weight[0] == 7.0f && v->weight[1] == 8.0f);
    csp_vectors_free(v);
    v = NULL;
    for (int what = 1; what <= 9; what++) {
        make_odd(scratch_path("odd.h5"), what);
        assert_int_equal(csp_vectors_read(scratch_path("odd.h5"), &v), CSP_ERR_FORMAT);
        assert_error_has("odd.h5");
        assert_null(v);
    }
}

static void jsonl_files_with_wrong_content_are_refused(void **state)
{
    static const char good[] =
        "{\"scheme\": \"ceil\", \"scale\": 50, \"dropped\": 0, \"clipped\": 2}";
    static const char *const bad[] = {
        "3",
        "{\"scheme\": \"ceil\", \"scale\": 50, \"dropped\": 0}",
        "{\"scheme\": \"half\", \"scale\": 50, \"dropped\": 0, \"clipped\": 0}",
        "{\"scheme\": \"ceil\", \"scale\": 0, \"dropped\": 0, \"clipped\": 0}",
        "{\"scheme\": \"ceil\", \"scale\": \"50\", \"dropped\": 0, \"clipped\": 0}",
    };
    static const char *const weights[] = { "12", "1.5", "16777217", "0.5" };
    csp_vectors *v = NULL;
    char text[512];

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        snprintf(text, sizeof(text),
                 "{\"csplade_vectors\": {\"format_version\": 1, \"vocab\": 9, \"side\": \"query\", "
                 "\"quantisation\": %s}}\n{\"id\": \"a\", \"vector\": {\"3\": %s}}\n",
                 good, weights[i]);
        scratch_write(scratch_path("q.jsonl"), text, strlen(text));
        if (i == 0) {
            assert_ok(csp_vectors_read(scratch_path("q.jsonl"), &v));
            assert_int_equal(v->quant.kind, CSP_QUANT_CEIL);
            assert_int_equal(v->counts.clipped, 2);
            csp_vectors_free(v);
            v = NULL;
        } else if (i != 2) { /* 16777217 is read as the float beside it */
            assert_int_equal(csp_vectors_read(scratch_path("q.jsonl"), &v), CSP_ERR_FORMAT);
            assert_error_has("q.jsonl:2");
        }
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        snprintf(text, sizeof(text),
                 "{\"csplade_vectors\": {\"format_version\": 1, \"vocab\": 9, \"side\": \"query\", "
                 "\"quantisation\": %s}}\n",
                 bad[i]);
        scratch_write(scratch_path("q.jsonl"), text, strlen(text));
        assert_int_equal(csp_vectors_read(scratch_path("q.jsonl"), &v), CSP_ERR_FORMAT);
        assert_error_has("q.jsonl");
    }
    assert_null(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(impacts_read_back_with_scheme_scale_and_counts),
        cmocka_unit_test(counts_may_come_behind_rows_in_hdf5),
        cmocka_unit_test(files_without_rows_read_back),
        cmocka_unit_test(what_is_no_impact_is_not_written),
        cmocka_unit_test(hdf5_files_with_wrong_content_are_refused),
        cmocka_unit_test(jsonl_files_with_wrong_content_are_refused),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
