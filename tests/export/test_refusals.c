/*
 * test_refusals.c - everything an export must refuse, because a format or its reader would silently
 * turn it into something else; and every failing call on the way.
 */
#include "export/place.h"

#include <jansson.h>

#include "core/fault.h"

static void keys_that_a_reader_would_misread_are_refused(void **state)
{
    static char longer[300];
    const struct {
        const char *key;
        bool seismic_too; /* else only anserini minds */
    } bad[] = {
        { "", true },
        { "t5", true },
        { "\xe9", true },
        { NULL, true },
        { "a b", false },
        { "a\xe3\x80\x80"
          "b",
          false },
        { "a\xc2\xa0", false },
        { longer, false },
    };
    place *p = *state;

    memset(longer, 'x', 256);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        for (int format = 0; format <= CSP_EXPORT_CIFF; format++) {
            csp_export_options options = options_for((csp_export_format)format);
            const csp_status want =
                bad[i].seismic_too || format == CSP_EXPORT_ANSERINI ? CSP_ERR_DATA : CSP_OK;
            csp_export_report report;

            const char *path = write_rows(p, "one.jsonl", sample, 1, 10);

            (void)snprintf(p->out, sizeof(p->out), "%s/out-%zu-%d", p->dir, i, format);
            options.key = key_of;
            options.key_context = (void *)(uintptr_t)bad[i].key;
            options.key_kind = "token";
            options.quant = (csp_quant) { CSP_QUANT_ROUND, 1000.0 };
            assert_int_equal(csp_export_vectors(&path, 1, &options, p->out, &report), want);
            assert_true(want == CSP_OK || !csp_file_exists(p->out));
        }
    }
}

static void float_weights_do_not_enter_integer_formats(void **state)
{
    place *p = *state;
    csp_export_options options = options_for(CSP_EXPORT_CIFF);
    csp_export_report report = { .rows = -1 };

    options.quant = (csp_quant) { CSP_QUANT_NONE, 0.0 };
    assert_int_equal(export_sample(p, &options, &report), CSP_ERR_ARGUMENT);
    assert_non_null(strstr(csp_error_text(), "1.23456776"));
    assert_non_null(strstr(csp_error_text(), "round:100"));
    assert_int_equal(report.rows, -1);
    assert_false(csp_file_exists(p->out));
}

static void too_many_terms_for_16_bits_are_refused(void **state)
{
    enum { TERMS = 65537 };
    place *p = *state;
    int32_t *term = malloc(TERMS * sizeof(*term));
    float *weight = malloc(TERMS * sizeof(*weight));
    csp_export_report report;
    const struct {
        csp_export_format format;
        csp_export_target target;
    } narrow[] = { { CSP_EXPORT_CIFF, CSP_TARGET_BMP },
                   { CSP_EXPORT_SEISMIC, CSP_TARGET_SEISMIC_U16 } };

    for (int32_t t = 0; t < TERMS; t++) {
        term[t] = t + 10; /* it is the count that matters, not the largest id */
        weight[t] = 1.0f;
    }
    for (int extra = 0; extra <= 1; extra++) {
        for (int i = 0; i < 2; i++) {
            csp_export_options options = options_for(narrow[i].format);
            csp_vectors_writer *writer;
            const char *path = p->path;

            (void)snprintf(p->path, sizeof(p->path), "%s/v-%d.jsonl", p->dir, extra);
            (void)snprintf(p->out, sizeof(p->out), "%s/out-%d-%d", p->dir, extra, i);
            assert_int_equal(
                csp_vectors_create(
                    p->path, &(csp_vectors_head) { .vocab = 100000, .side = "document" }, &writer),
                CSP_OK);
            assert_int_equal(csp_vectors_append(writer, "d", TERMS - 1 + extra, term, weight),
                             CSP_OK);
            assert_int_equal(csp_vectors_commit(writer), CSP_OK);
            options.target = narrow[i].target;
            assert_int_equal(csp_export_vectors(&path, 1, &options, p->out, &report),
                             extra == 0 ? CSP_OK : CSP_ERR_DATA);
        }
    }
    assert_non_null(strstr(csp_error_text(), "65537 terms"));
    free(term);
    free(weight);
}

static void parts_that_do_not_belong_together_are_refused(void **state)
{
    place *p = *state;
    const csp_export_options options = options_for(CSP_EXPORT_SEISMIC);
    csp_export_report report;
    char *one = strdup(write_rows(p, "a.jsonl", sample, 2, 10));
    char *same = strdup(write_rows(p, "b.jsonl", sample + 1, 2, 10));
    char *rest = strdup(write_rows(p, "c.jsonl", sample + 2, 2, 10));
    char *other = strdup(write_rows(p, "d.jsonl", sample + 2, 2, 11));
    const char *twice[] = { one, same }, *mixed[] = { one, other }, *good[] = { one, rest };

    assert_int_equal(csp_export_vectors(twice, 2, &options, p->out, &report), CSP_ERR_DATA);
    assert_int_equal(csp_export_vectors(mixed, 2, &options, p->out, &report), CSP_ERR_DATA);
    assert_int_equal(csp_export_vectors(good, 2, &options, p->out, &report), CSP_OK);
    assert_int_equal(report.rows, 4);
    /* And not into a folder that holds an export. */
    assert_int_equal(csp_export_vectors(good, 2, &options, p->out, &report), CSP_ERR_ARGUMENT);
    free(one);
    free(same);
    free(rest);
    free(other);
}

static void options_that_do_not_fit_together_are_refused(void **state)
{
    place *p = *state;
    csp_export_options options = options_for(CSP_EXPORT_CIFF);
    csp_export_report report;

    options.queries = true;
    assert_int_equal(export_sample(p, &options, &report), CSP_ERR_ARGUMENT);
    options = options_for(CSP_EXPORT_SEISMIC);
    options.shards = 2;
    assert_int_equal(export_sample(p, &options, &report), CSP_ERR_ARGUMENT);
    options = options_for(CSP_EXPORT_SEISMIC);
    options.target = CSP_TARGET_BMP;
    assert_int_equal(export_sample(p, &options, &report), CSP_ERR_ARGUMENT);
    options = options_for(CSP_EXPORT_CIFF);
    options.target = CSP_TARGET_SEISMIC_U16;
    assert_int_equal(export_sample(p, &options, &report), CSP_ERR_ARGUMENT);
    options = options_for(CSP_EXPORT_ANSERINI);
    options.queries = false;
    options.shards = 100000;
    assert_int_equal(export_sample(p, &options, &report), CSP_ERR_ARGUMENT);
}

static void a_document_too_long_for_ciff_is_refused(void **state)
{
    static const row heavy[] = { { "d", 2, { 1, 2 }, { 2e9f, 2e9f } } };
    place *p = *state;
    csp_export_options options = options_for(CSP_EXPORT_CIFF);
    const char *path = write_rows(p, "v.jsonl", heavy, 1, 4);
    csp_export_report report;

    options.quant = (csp_quant) { CSP_QUANT_NONE, 0.0 };
    assert_int_equal(csp_export_vectors(&path, 1, &options, p->out, &report), CSP_ERR_DATA);
    assert_non_null(strstr(csp_error_text(), "4000000000"));
}

static void every_allocation_and_write_may_fail(void **state)
{
    place *p = *state;
    csp_status status = CSP_ERR_MEMORY;
    char command[256];

    for (int format = 0; format <= CSP_EXPORT_CIFF; format++) {
        const csp_export_options options = options_for((csp_export_format)format);
        const char *path = write_rows(p, "v.jsonl", sample, 1, 10);

        status = CSP_ERR_MEMORY;
        for (long n = 1; status != CSP_OK; n++) {
            csp_export_report report;

            (void)snprintf(command, sizeof(command), "rm -rf '%s'", p->out);
            assert_int_equal(system(command), 0);
            csp_fault_arm(n);
            status = csp_export_vectors(&path, 1, &options, p->out, &report);
            csp_fault_arm(0);
            (void)snprintf(p->path, sizeof(p->path), "%s/manifest.json", p->out);
            /* The last step, making the rename durable, may fail with the manifest in place. */
            assert_true(status != CSP_OK || csp_file_exists(p->path));
            if (csp_file_exists(p->path)) {
                json_t *manifest = json_load_file(p->path, 0, NULL);

                assert_non_null(manifest);
                json_decref(manifest);
            }
            assert_true(n < 500);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(keys_that_a_reader_would_misread_are_refused),
        CASE(float_weights_do_not_enter_integer_formats),
        CASE(too_many_terms_for_16_bits_are_refused),
        CASE(parts_that_do_not_belong_together_are_refused),
        CASE(options_that_do_not_fit_together_are_refused),
        CASE(a_document_too_long_for_ciff_is_refused),
        CASE(every_allocation_and_write_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
