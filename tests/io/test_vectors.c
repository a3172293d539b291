/* test_vectors.c - sparse vectors: both forms read back, what is refused, damage, faults. */
#include "io/scratch.h"

#include <sys/resource.h>

#include "io/hdf5.h"
#include "io/vectors.h"

static const char *const endings[] = { "h5", "hdf5", "jsonl" };

static const char *named(const char *stem, const char *ending)
{
    char name[64];

    snprintf(name, sizeof(name), "%s.%s", stem, ending);
    return scratch_path(name);
}

static csp_status write_three(const char *path)
{
    const int32_t terms[] = { 0, 17, 99 };
    const float weights[] = { 1.25f, 1e-30f, 3.4e38f };
    csp_vectors_writer *w = NULL;
    csp_status status;

    CSP_TRY(csp_vectors_create(
        path,
        &(csp_vectors_head) {
            .vocab = 100, .side = "document", .meta = "{\"top_k\":512,\"name\":\"\xC3\xBC\"}" },
        &w));
    CSP_TRY_GOTO(csp_vectors_append(w, "d1", 3, terms, weights));
    CSP_TRY_GOTO(csp_vectors_append(w, "empty \"quoted\" \\ \t\xC3\xBC", 0, NULL, NULL));
    CSP_TRY_GOTO(csp_vectors_append(w, "d3", 1, terms + 1, weights));
    return csp_vectors_commit(w);

fail:
    csp_vectors_abandon(w);
    return status;
}

static void both_forms_read_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
        csp_vectors *v;

        assert_ok(write_three(named("three", endings[i])));
        assert_int_equal(scratch_count(scratch_dir, ".tmp."), 0);
        assert_ok(csp_vectors_read(named("three", endings[i]), &v));
        assert_int_equal(v->rows, 3);
        assert_int_equal(v->vocab, 100);
        assert_memory_equal(v->row_ptr, ((int64_t[]) { 0, 3, 3, 4 }), 4 * sizeof(int64_t));
        assert_memory_equal(v->term, ((int32_t[]) { 0, 17, 99, 17 }), 4 * sizeof(int32_t));
        assert_memory_equal(v->weight, ((float[]) { 1.25f, 1e-30f, 3.4e38f, 1.25f }),
                            4 * sizeof(float));
        assert_string_equal(v->ids[0], "d1");
        assert_string_equal(v->ids[1], "empty \"quoted\" \\ \t\xC3\xBC");
        assert_string_equal(v->side, "document");
        assert_string_equal(v->meta, "{\"top_k\":512,\"name\":\"\xC3\xBC\"}");
        csp_vectors_free(v);
    }
    csp_vectors_free(NULL);
}

static void files_without_rows_and_without_meta_read_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
        csp_vectors_writer *w;
        csp_vectors *v;

        assert_ok(csp_vectors_create(named("none", endings[i]),
                                     &(csp_vectors_head) { .vocab = 7, .side = "query" }, &w));
        assert_ok(csp_vectors_commit(w));
        assert_ok(csp_vectors_read(named("none", endings[i]), &v));
        assert_int_equal(v->rows, 0);
        assert_int_equal(v->vocab, 7);
        assert_int_equal(v->row_ptr[0], 0);
        assert_string_equal(v->side, "query");
        assert_null(v->meta);
        csp_vectors_free(v);
    }
}

/* More rows, weights and ids than a writer's pieces hold, one row longer than a piece. */
static void many_rows_read_back(void **state)
{
    enum { ROWS = 70000, VOCAB = 100000 };
    int32_t *terms = malloc(VOCAB * sizeof(*terms));
    float *weights = malloc(VOCAB * sizeof(*weights));

    (void)state;
    for (int i = 0; i < VOCAB; i++) {
        terms[i] = i;
        weights[i] = 0.001f * (float)(i + 1);
    }
    for (size_t e = 0; e < 3; e += 2) {
        csp_vectors_writer *w;
        csp_vectors *v;
        char id[32];
        int64_t nnz = 0;

        assert_ok(csp_vectors_create(named("many", endings[e]),
                                     &(csp_vectors_head) { .vocab = VOCAB, .side = "document" },
                                     &w));
        for (int row = 0; row < ROWS; row++) {
            const int count = row == 77 ? VOCAB - 10 : row % 4;

            snprintf(id, sizeof(id), "doc-%d", row);
            assert_ok(csp_vectors_append(w, id, count, terms + row % 5, weights + row % 7));
            nnz += count;
        }
        assert_ok(csp_vectors_commit(w));
        assert_ok(csp_vectors_read(named("many", endings[e]), &v));
        assert_int_equal(v->rows, ROWS);
        assert_int_equal(v->row_ptr[ROWS], nnz);
        for (int row = 0; row < ROWS; row++) {
            const int64_t count = v->row_ptr[row + 1] - v->row_ptr[row];

            snprintf(id, sizeof(id), "doc-%d", row);
            assert_string_equal(v->ids[row], id);
            assert_int_equal(count, row == 77 ? VOCAB - 10 : row % 4);
            assert_memory_equal(v->term + v->row_ptr[row], terms + row % 5, (size_t)count * 4);
            assert_memory_equal(v->weight + v->row_ptr[row], weights + row % 7, (size_t)count * 4);
        }
        csp_vectors_free(v);
    }
    free(terms);
    free(weights);
}

static void foreign_jsonl_is_read(void **state)
{
    static const char text[] =
        "{\"content\": {\"a\": [1, -2.5e+3, {\"b\": null}], \"c\": [], \"d\": {}}, \"id\": 17, "
        "\"vector\": {\"9\": 2, \"3\": 1.5E-1}}\r\n"
        "\n"
        " { \"vector\" : { } , \"id\" : \"\\u00fc\\ud83d\\ude00\\n\\/\" , \"ok\" : true } \n";
    csp_vectors *v;

    (void)state;
    scratch_text(scratch_path("foreign.jsonl"), text);
    assert_ok(csp_vectors_read(scratch_path("foreign.jsonl"), &v));
    assert_int_equal(v->rows, 2);
    assert_int_equal(v->vocab, 10);
    assert_string_equal(v->ids[0], "17");
    assert_string_equal(v->ids[1], "\xC3\xBC\xF0\x9F\x98\x80\n/");
    assert_memory_equal(v->term, ((int32_t[]) { 3, 9 }), 8);
    assert_memory_equal(v->weight, ((float[]) { 0.15f, 2.0f }), 8);
    assert_null(v->meta);
    assert_null(v->side);
    csp_vectors_free(v);
}

static void bad_lines_are_refused_with_their_number(void **state)
{
    static const struct {
        const char *line, *part;
        csp_status status;
    } cases[] = {
        { "[]", "byte 1: an object should begin", CSP_ERR_FORMAT },
        { "{}", "a string should begin", CSP_ERR_FORMAT },
        { "{\"id\": \"a\"}", "no \"vector\"", CSP_ERR_FORMAT },
        { "{\"vector\": {}}", "no \"id\"", CSP_ERR_FORMAT },
        { "{\"id\": \"\", \"vector\": {}}", "empty id", CSP_ERR_FORMAT },
        { "{\"id\": 1.5, \"vector\": {}}", "whole number", CSP_ERR_FORMAT },
        { "{\"id\": 1e3, \"vector\": {}}", "whole number", CSP_ERR_FORMAT },
        { "{\"id\": null, \"vector\": {}}", "a number should", CSP_ERR_FORMAT },
        { "{\"id\": \"first\", \"vector\": {}}", "bad.jsonl:2: id first comes", CSP_ERR_DATA },
        { "{\"id\": \"a\", \"id\": \"b\", \"vector\": {}}", "second id", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {}, \"vector\": {}}", "second id or vector",
          CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": []}", "should begin here with {", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"x\": 1}}", "not a term id", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"\": 1}}", "not a term id", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"-1\": 1}}", "not a term id", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"01\": 1}}", "not a term id", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"2147483648\": 1}}", "not a term id", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"16777216\": 1}}", "not a term id", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"99999999999999999999\": 1}}", "not a term id",
          CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"50\": 1}}", "not below the vocabulary", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"1\": 0}}", "above 0", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"1\": -1}}", "above 0", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"1\": 1e-99}}", "above 0", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"1\": 1e39}}", "above 0", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"1\": NaN}}", "a number should", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"1\": 0x10}}", "comma or }", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"1\": 1.}}", "after its point", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"1\": 1e}}", "exponent", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"1\": .5}}", "a number should", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"1\": 01}}", "comma or }", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"1\": \"1\"}}", "a number should", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"1\" 1}}", "colon", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"1\": 1,}}", "term id in quotes", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"1\": 1, \"1\": 2}}", "comes twice", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {\"2\": 1, \"1\": 1, \"2\": 1}}", "comes twice",
          CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {}} x", "text after", CSP_ERR_FORMAT },
        { "{\"id\": \"a\", \"vector\": {}", "comma or }", CSP_ERR_FORMAT },
        { "{\"id\": \"a", "ends inside a string", CSP_ERR_FORMAT },
        { "{\"id\": \"a\tb\", \"vector\": {}}", "control character", CSP_ERR_FORMAT },
        { "{\"id\": \"\\x\", \"vector\": {}}", "escape JSON does not", CSP_ERR_FORMAT },
        { "{\"id\": \"\\u0000\", \"vector\": {}}", "no character", CSP_ERR_FORMAT },
        { "{\"id\": \"\\ud83d\", \"vector\": {}}", "no character", CSP_ERR_FORMAT },
        { "{\"id\": \"\\udc00\", \"vector\": {}}", "no character", CSP_ERR_FORMAT },
        { "{\"id\": \"\\u12", "no character", CSP_ERR_FORMAT },
        { "{\"id\": \"\xFF\", \"vector\": {}}", "invalid UTF-8", CSP_ERR_FORMAT },
        { "{\"x\": tru, \"id\": \"a\", \"vector\": {}}", "a number should", CSP_ERR_FORMAT },
        { "{\"x\": [1 2], \"id\": \"a\", \"vector\": {}}", "comma or ]", CSP_ERR_FORMAT },
        { "{\"x\": {\"a\" 1}, \"id\": \"a\", \"vector\": {}}", "colon", CSP_ERR_FORMAT },
        { "{\"x\": ", "a number should", CSP_ERR_FORMAT },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        csp_vectors *v = NULL;
        char text[512];

        snprintf(text, sizeof(text), "%s{\"id\": \"first\", \"vector\": {\"1\": 1}}\n%s\n",
                 strstr(cases[i].part, "vocabulary") != NULL
                     ? "{\"csplade_vectors\": {\"format_version\": 1, \"vocab\": 50}}\n"
                     : "",
                 cases[i].line);
        scratch_text(scratch_path("bad.jsonl"), text);
        assert_int_equal(csp_vectors_read(scratch_path("bad.jsonl"), &v), cases[i].status);
        assert_error_has(cases[i].part);
        assert_error_has(strstr(text, "csplade_vectors") != NULL ? "bad.jsonl:3: "
                                                                 : "bad.jsonl:2: ");
        assert_null(v);
    }
}

static void deep_nesting_is_refused(void **state)
{
    enum { DEEP = 100000 };
    char *text = malloc(DEEP + 64);
    csp_vectors *v = NULL;

    (void)state;
    memcpy(text, "{\"x\": ", 6);
    memset(text + 6, '[', DEEP);
    text[DEEP + 6] = '\0';
    scratch_text(scratch_path("deep.jsonl"), text);
    assert_int_equal(csp_vectors_read(scratch_path("deep.jsonl"), &v), CSP_ERR_FORMAT);
    assert_error_has("nested too deep");
    free(text);
}

static void bad_first_lines_and_names_are_refused(void **state)
{
    static const char *const headers[] = {
        "{\"csplade_vectors\": {}}",
        "{\"csplade_vectors\": 1}",
        "{\"csplade_vectors\": {\"format_version\": 2, \"vocab\": 5}}",
        "{\"csplade_vectors\": {\"format_version\": 1, \"vocab\": 0}}",
        "{\"csplade_vectors\": {\"format_version\": 1, \"vocab\": 16777217}}",
        "{\"csplade_vectors\": {\"format_version\": 1, \"vocab\": 5}",
        "{\"csplade_vectors\": {\"format_version\": 1, \"vocab\": 5, \"meta\": \"text\"}}",
        "{\"csplade_vectors\": {\"format_version\": 1, \"vocab\": 5, \"meta\": [1]}}",
        "{\"csplade_vectors\": {\"format_version\": 1, \"vocab\": 5, \"side\": 1}}",
        "{\"csplade_vectors\": {\"format_version\": 1, \"vocab\": 5, \"side\": \"documents\"}}",
    };
    csp_vectors *v = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
        scratch_text(scratch_path("head.jsonl"), headers[i]);
        assert_int_equal(csp_vectors_read(scratch_path("head.jsonl"), &v), CSP_ERR_FORMAT);
        assert_error_has("head.jsonl:");
    }
    assert_int_equal(csp_vectors_read(scratch_path("vectors.txt"), &v), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_vectors_read(".h5", &v), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_vectors_read(scratch_path("absent.h5"), &v), CSP_ERR_IO);
    assert_int_equal(csp_vectors_read(scratch_path("absent.jsonl"), &v), CSP_ERR_IO);
    assert_null(v);
}

static void refuse_create(const char *path, csp_vectors_head head)
{
    csp_vectors_writer *w = NULL;

    assert_int_equal(csp_vectors_create(path, &head, &w), CSP_ERR_ARGUMENT);
    assert_null(w);
}

static void what_is_not_a_vector_is_not_written(void **state)
{
    const int32_t ok[] = { 1, 2 }, falling[] = { 2, 1 }, twice[] = { 1, 1 }, high[] = { 1, 10 },
                  low[] = { -1, 2 };
    const float one[] = { 1, 1 }, zero[] = { 1, 0 }, nan[] = { NAN, 1 }, inf[] = { 1, INFINITY };
    const struct {
        const char *id;
        const int32_t *term;
        const float *weight;
        csp_status status;
    } cases[] = { { "a", falling, one, CSP_ERR_ARGUMENT }, { "a", twice, one, CSP_ERR_ARGUMENT },
                  { "a", high, one, CSP_ERR_ARGUMENT },    { "a", low, one, CSP_ERR_ARGUMENT },
                  { "a", ok, zero, CSP_ERR_ARGUMENT },     { "a", ok, nan, CSP_ERR_NUMERIC },
                  { "a", ok, inf, CSP_ERR_NUMERIC },       { "", ok, one, CSP_ERR_DATA },
                  { "\xFF", ok, one, CSP_ERR_DATA } };
    csp_vectors_writer *w = NULL;

    (void)state;
    for (size_t e = 0; e < 3; e++) {
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            assert_ok(csp_vectors_create(named("refused", endings[e]),
                                         &(csp_vectors_head) { .vocab = 10, .side = "query" }, &w));
            assert_int_equal(csp_vectors_append(w, cases[i].id, 2, cases[i].term, cases[i].weight),
                             cases[i].status);
            assert_error_has("refused.");
            csp_vectors_abandon(w);
        }
        assert_int_equal(access(named("refused", endings[e]), F_OK), -1);
    }
    w = NULL;
    csp_vectors_abandon(w);
    refuse_create("x.jsonl.gz", (csp_vectors_head) { .vocab = 10, .side = "query" });
    refuse_create("x.npz", (csp_vectors_head) { .vocab = 10, .side = "query" });
    refuse_create("x.h5", (csp_vectors_head) { .vocab = 0, .side = "query" });
    refuse_create("x.h5", (csp_vectors_head) { .vocab = 10, .side = "both" });
    refuse_create("x.h5", (csp_vectors_head) { .vocab = 10, .side = "query", .meta = "[1]" });
    refuse_create("x.jsonl", (csp_vectors_head) { .vocab = 10, .side = "query", .meta = "{" });
}

/* A file that is HDF5 and complete, with something in it that vectors must not have. */
static void make_odd(const char *path, int what)
{
    int64_t indptr[] = { 0, 1, 2 }, shape[] = { 2, 10 };
    int32_t indices[] = { 3, 4 };
    float data[] = { 1, 2 };
    const char *ids[] = { "a", "b" };
    int64_t ptrs = 3, nnz = 2, names = 2;
    csp_hdf5 *file;
    csp_tensor t;

    indptr[1] = what == 1 ? 5 : 1;
    indptr[0] = what == 2 ? 1 : 0;
    indptr[2] = what == 3 ? 1 : 2;
    indices[0] = what == 4 ? 10 : 3;
    indices[1] = what == 5 ? -1 : 4;
    data[1] = what == 6 ? NAN : what == 7 ? 0 : 2;
    ids[1] = what == 8 ? "a" : what == 9 ? "" : "b";
    ptrs = what == 10 ? 2 : 3;
    names = what == 11 ? 1 : 2;
    shape[1] = what == 12 ? 0 : 10;
    shape[0] = what == 13 ? -1 : 2;
    indptr[1] = what == 14 ? -1 : indptr[1];
    assert_ok(csp_hdf5_create(path, &file));
    assert_ok(csp_hdf5_set_text(file, "/", "format", what == 15 ? "other" : "csplade-vectors"));
    assert_ok(csp_hdf5_set_i64(file, "/", "format_version", what == 16 ? 2 : 1));
    assert_ok(csp_hdf5_set_text(file, "/X", "encoding-type", what == 17 ? "csc" : "csr_matrix"));
    assert_ok(csp_hdf5_set_i64s(file, "/X", "shape", shape, what == 18 ? 1 : 2));
    if (what >= 22) {
        assert_ok(csp_hdf5_set_text(file, "/", what == 22 ? "meta" : "side",
                                    what == 22 ? "{\"contract\": }" : "documents"));
    }
    t = csp_tensor_view(indptr, CSP_I64, 1, &ptrs);
    assert_ok(csp_hdf5_write(file, "/X/indptr", &t));
    t = csp_tensor_view(indices, what == 19 ? CSP_F32 : CSP_I32, 1, &nnz);
    assert_ok(csp_hdf5_write(file, "/X/indices", &t));
    nnz = what == 20 ? 1 : 2;
    t = csp_tensor_view(data, CSP_F32, 1, &nnz);
    if (what != 21) {
        assert_ok(csp_hdf5_write(file, "/X/data", &t));
    }
    assert_ok(csp_hdf5_write_strings(file, "/ids", ids, names));
    assert_ok(csp_hdf5_commit(file));
}

static void hdf5_files_with_wrong_content_are_refused(void **state)
{
    csp_vectors *v = NULL;

    (void)state;
    make_odd(scratch_path("odd.h5"), 0);
    assert_ok(csp_vectors_read(scratch_path("odd.h5"), &v));
    assert_int_equal(v->rows, 2);
    assert_null(v->side);
    csp_vectors_free(v);
    v = NULL;
    for (int what = 1; what <= 23; what++) {
        make_odd(scratch_path("odd.h5"), what);
        assert_int_equal(csp_vectors_read(scratch_path("odd.h5"), &v),
                         what == 8 ? CSP_ERR_DATA : CSP_ERR_FORMAT);
        assert_error_has("odd.h5");
        assert_null(v);
    }
}

static void damaged_files_are_refused_without_harm(void **state)
{
    (void)state;
    for (size_t e = 0; e < 3; e += 2) {
        char path[512], *bytes;
        size_t count, step;

        snprintf(path, sizeof(path), "%s", named("damage", endings[e]));
        assert_ok(write_three(path));
        bytes = scratch_read(path, &count);
        step = count / 400 + 1;
        for (size_t cut = 0; cut < count; cut += step) {
            csp_vectors *v = NULL;
            csp_status status;

            scratch_write(path, bytes, cut);
            status = csp_vectors_read(path, &v);
            /* JSONL cut between lines, or before the last newline, is right in itself. */
            assert_true(status == CSP_ERR_FORMAT || (e == 2 && status == CSP_OK));
            csp_vectors_free(v);
        }
        scratch_write(path, bytes, count);
        for (size_t at = 0; at < count; at += step) {
            for (int bit = 0; bit < 8; bit += e == 2 ? 1 : 5) {
                csp_vectors *v = NULL;
                csp_status status;

                scratch_poke(path, at, (char)(bytes[at] ^ (1 << bit)));
                status = csp_vectors_read(path, &v);
                assert_true(status == CSP_ERR_FORMAT ||
                            (e == 2 && (status == CSP_OK || status == CSP_ERR_DATA)));
                csp_vectors_free(v);
            }
            scratch_poke(path, at, bytes[at]);
        }
        free(bytes);
    }
}

static csp_status write_and_read(void *context)
{
    csp_vectors *v;

    CSP_TRY(write_three(context));
    CSP_TRY(csp_vectors_read(context, &v));
    csp_vectors_free(v);
    return CSP_OK;
}

static void a_whole_file_is_there(void *context)
{
    csp_vectors *v;

    assert_int_equal(scratch_count(scratch_dir, ".tmp."), 0);
    assert_ok(csp_vectors_read(context, &v));
    assert_int_equal(v->rows, 3);
    csp_vectors_free(v);
}

static void every_failure_has_a_message_and_keeps_the_earlier_file(void **state)
{
    char path[512];

    (void)state;
    for (size_t e = 0; e < 3; e += 2) {
        snprintf(path, sizeof(path), "%s", named("faults", endings[e]));
        assert_ok(write_three(path));
        assert_true(walk_faults(write_and_read, a_whole_file_is_there, path) >= 25);
    }
}

static void a_full_disk_keeps_the_earlier_file(void **state)
{
    struct rlimit before, small;
    int32_t *terms = malloc(50000 * sizeof(*terms));
    float *weights = malloc(50000 * sizeof(*weights));

    (void)state;
    for (int i = 0; i < 50000; i++) {
        terms[i] = i;
        weights[i] = 1.0f;
    }
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 300000;
    for (size_t e = 0; e < 3; e += 2) {
        char path[512], id[16];
        csp_vectors_writer *w;
        csp_status status = CSP_OK;

        snprintf(path, sizeof(path), "%s", named("full", endings[e]));
        assert_ok(write_three(path));
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        assert_ok(csp_vectors_create(
            path, &(csp_vectors_head) { .vocab = 50000, .side = "document" }, &w));
        for (int row = 0; row < 20 && status == CSP_OK; row++) {
            snprintf(id, sizeof(id), "%d", row);
            status = csp_vectors_append(w, id, 50000, terms, weights);
        }
        assert_int_equal(status, CSP_ERR_IO);
        assert_error_has("File too large");
        assert_int_equal(csp_vectors_commit(w), CSP_ERR_IO);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        a_whole_file_is_there(path);
    }
    free(terms);
    free(weights);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_forms_read_back),
        cmocka_unit_test(files_without_rows_and_without_meta_read_back),
        cmocka_unit_test(many_rows_read_back),
        cmocka_unit_test(foreign_jsonl_is_read),
        cmocka_unit_test(bad_lines_are_refused_with_their_number),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(bad_first_lines_and_names_are_refused),
        cmocka_unit_test(what_is_not_a_vector_is_not_written),
        cmocka_unit_test(hdf5_files_with_wrong_content_are_refused),
        cmocka_unit_test(damaged_files_are_refused_without_harm),
        cmocka_unit_test(every_failure_has_a_message_and_keeps_the_earlier_file),
        cmocka_unit_test(a_full_disk_keeps_the_earlier_file),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
