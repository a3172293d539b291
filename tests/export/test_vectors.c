/*
 * test_vectors.c - every vector format re-read by a parser of its own and compared entry by entry.
 * (scripts/check_exports.py asks the real readers.)
 */
#include "export/place.h"

#include <jansson.h>
#include <math.h>

/* The i-th line of a text as JSON; the caller drops it. */
static json_t *line_of(const char *text, int64_t i)
{
    size_t length;

    for (; i > 0; i--) {
        text = strchr(text, '\n') + 1;
    }
    length = strcspn(text, "\n");
    assert_true(text[length] == '\n');
    return json_loadb(text, length, 0, NULL);
}

static void seismic_keeps_every_weight_exactly(void **state)
{
    place *p = *state;
    const csp_export_options options = options_for(CSP_EXPORT_SEISMIC);
    csp_export_report report;
    char *text;

    assert_int_equal(export_sample(p, &options, &report), CSP_OK);
    assert_int_equal(report.rows, 4);
    assert_int_equal(report.empty_rows, 1);
    assert_int_equal(report.postings, 6);
    assert_int_equal(report.distinct, 4);
    text = slurp(p, "documents.jsonl", NULL);
    for (int64_t r = 0; r < 4; r++) {
        json_t *line = line_of(text, r);
        const json_t *vector = json_object_get(line, "vector");

        assert_string_equal(json_string_value(json_object_get(line, "id")), sample[r].id);
        assert_non_null(json_object_get(line, "content"));
        assert_int_equal(json_object_size(vector), sample[r].nnz);
        for (int64_t i = 0; i < sample[r].nnz; i++) {
            char key[8];

            (void)snprintf(key, sizeof(key), "%d", sample[r].term[i]);
            assert_true((float)json_number_value(json_object_get(vector, key)) ==
                        sample[r].weight[i]);
        }
        json_decref(line);
    }
    free(text);
}

static void anserini_writes_integers_in_shards(void **state)
{
    place *p = *state;
    csp_export_options options = options_for(CSP_EXPORT_ANSERINI);
    csp_export_report report;
    int64_t r = 0;

    options.shards = 3;
    assert_int_equal(export_sample(p, &options, &report), CSP_OK);
    assert_int_equal(report.dropped, 1);
    assert_int_equal(report.postings, 5);
    for (int64_t s = 0; s < 3; s++) {
        char name[64], *text;

        (void)snprintf(name, sizeof(name), "docs/docs-%05lld-of-00003.jsonl", (long long)s);
        text = slurp(p, name, NULL);
        for (const char *at = text; *at != '\0'; at = strchr(at, '\n') + 1, r++) {
            json_t *line = line_of(at, 0);
            const json_t *vector = json_object_get(line, "vector"), *value;
            const char *key;
            int64_t kept = 0;

            assert_string_equal(json_string_value(json_object_get(line, "id")), sample[r].id);
            assert_string_equal(json_string_value(json_object_get(line, "contents")), "");
            for (int64_t i = 0; i < sample[r].nnz; i++) {
                kept += lroundf(100.0f * sample[r].weight[i]) > 0;
            }
            assert_int_equal(json_object_size(vector), kept);
            json_object_foreach((json_t *)vector, key, value)
            {
                bool found = false;

                assert_true(json_is_integer(value));
                for (int64_t i = 0; i < sample[r].nnz; i++) {
                    found = found ||
                            (sample[r].term[i] == atol(key) &&
                             lroundf(100.0f * sample[r].weight[i]) == json_integer_value(value));
                }
                assert_true(found);
            }
            json_decref(line);
        }
        free(text);
    }
    assert_int_equal(r, 4);
}

static void anserini_queries_repeat_their_terms(void **state)
{
    static const row queries[] = { { "q1", 2, { 1, 3 }, { 0.2f, 0.34f } },
                                   { "nothing", 0, { 0 }, { 0.0f } },
                                   { "faint", 1, { 4 }, { 0.01f } },
                                   { "q2", 1, { 9 }, { 0.1f } } };
    place *p = *state;
    csp_export_options options = options_for(CSP_EXPORT_ANSERINI);
    const char *path = write_rows(p, "q.jsonl", queries, 4, 10);
    csp_export_report report;
    char *text;

    options.quant.scale = 10.0;
    assert_int_equal(csp_export_vectors(&path, 1, &options, p->out, &report), CSP_ERR_ARGUMENT);
    assert_non_null(strstr(csp_error_text(), "side query: --side query exports them"));
    options.queries = true;
    assert_int_equal(csp_export_vectors(&path, 1, &options, p->out, &report), CSP_OK);
    assert_int_equal(report.empty_rows, 2);
    text = slurp(p, "queries.tsv", NULL);
    assert_string_equal(text, "q1\t1 1 3 3 3\nq2\t9\n");
    free(text);
}

/* A protobuf reader for just CIFF, written from its description. */
typedef struct wire {
    const unsigned char *at, *end;
} wire;

static uint64_t read_varint(wire *w)
{
    uint64_t value = 0;

    for (int shift = 0;; shift += 7) {
        assert_true(w->at < w->end && shift < 64);
        value |= (uint64_t)(*w->at & 127) << shift;
        if ((*w->at++ & 128) == 0) {
            return value;
        }
    }
}

static wire read_message(wire *w)
{
    const uint64_t length = read_varint(w);
    const wire inner = { w->at, w->at + length };

    assert_true(length <= (uint64_t)(w->end - w->at));
    w->at += length;
    return inner;
}

/* The next field: its number; integers land in *value, strings and messages in *inner. */
static int read_field(wire *w, uint64_t *value, wire *inner)
{
    const uint64_t tag = read_varint(w);

    if ((tag & 7) == 0) {
        *value = read_varint(w);
    } else if ((tag & 7) == 2) {
        *inner = read_message(w);
    } else {
        assert_int_equal(tag & 7, 1);
        memcpy(value, w->at, 8);
        w->at += 8;
    }
    return (int)(tag >> 3);
}

static void check_ciff(place *p, const row *rows, int64_t count, double scale)
{
    int64_t bytes, lists = 0, docs = 0, total = 0, seen = 0, expected = 0, sum = 0;
    char *text = slurp(p, "index.ciff", &bytes), last[64] = "";
    wire file = { (unsigned char *)text, (unsigned char *)text + bytes };
    wire header = read_message(&file), inner;
    uint64_t value = 0;
    double mean = -1.0;

    while (header.at < header.end) {
        const int field = read_field(&header, &value, &inner);

        assert_true(field != 1 || value == 1);
        lists = field == 2 ? (int64_t)value : lists;
        docs = field == 3 ? (int64_t)value : docs;
        assert_true(field != 4 || (int64_t)value == lists);
        assert_true(field != 5 || (int64_t)value == docs);
        total = field == 6 ? (int64_t)value : total;
        if (field == 7) {
            memcpy(&mean, &value, 8);
        }
    }
    assert_int_equal(docs, count);
    assert_true(mean == (double)total / (double)docs);
    for (int64_t l = 0; l < lists; l++) {
        wire list = read_message(&file);
        int64_t df = 0, cf = 0, n = 0, cf_sum = 0, doc = 0;
        char term[64] = "";

        while (list.at < list.end) {
            const int field = read_field(&list, &value, &inner);

            df = field == 2 ? (int64_t)value : df;
            cf = field == 3 ? (int64_t)value : cf;
            if (field == 1) {
                memcpy(term, inner.at, (size_t)(inner.end - inner.at));
            } else if (field == 4) {
                int64_t gap = 0, impact = 0;
                bool found = false;

                while (inner.at < inner.end) {
                    const int part = read_field(&inner, &value, NULL);

                    gap = part == 1 ? (int64_t)value : gap;
                    impact = part == 2 ? (int64_t)value : impact;
                }
                assert_true(n == 0 || gap > 0);
                doc += gap;
                n++;
                cf_sum += impact;
                for (int64_t i = 0; i < rows[doc].nnz; i++) {
                    found = found || (rows[doc].term[i] == atol(term) &&
                                      llround(scale * (double)rows[doc].weight[i]) == impact);
                }
                assert_true(found);
            }
        }
        assert_true(strcmp(last, term) < 0);
        strcpy(last, term);
        assert_int_equal(df, n);
        assert_int_equal(cf, cf_sum);
        seen += n;
    }
    for (int64_t d = 0; d < docs; d++) {
        wire record = read_message(&file);
        int64_t number = 0, length = 0, want = 0;

        while (record.at < record.end) {
            const int field = read_field(&record, &value, &inner);

            number = field == 1 ? (int64_t)value : number;
            length = field == 3 ? (int64_t)value : length;
            if (field == 2) {
                assert_int_equal(inner.end - inner.at, strlen(rows[d].id));
                assert_memory_equal(inner.at, rows[d].id, strlen(rows[d].id));
            }
        }
        for (int64_t i = 0; i < rows[d].nnz; i++) {
            const int64_t impact = llround(scale * (double)rows[d].weight[i]);

            want += impact;
            expected += impact > 0;
        }
        assert_int_equal(number, d);
        assert_int_equal(length, want);
        sum += length;
    }
    assert_true(file.at == file.end);
    assert_int_equal(seen, expected);
    assert_int_equal(sum, total);
    free(text);
}

static void ciff_holds_every_posting(void **state)
{
    place *p = *state;
    const csp_export_options options = options_for(CSP_EXPORT_CIFF);
    csp_export_report report;

    assert_int_equal(export_sample(p, &options, &report), CSP_OK);
    check_ciff(p, sample, 4, 100.0);
}

static void ciff_is_as_its_header_draws_it(void **state)
{
    static const row rows[] = { { "x", 1, { 1 }, { 3.0f } }, { "a", 0, { 0 }, { 0.0f } },
                                { "b", 0, { 0 }, { 0.0f } }, { "c", 0, { 0 }, { 0.0f } },
                                { "d", 0, { 0 }, { 0.0f } }, { "e", 1, { 1 }, { 200.0f } } };
    static const unsigned char list[] = { 0x0a, 0x01, '1',  0x10, 0x02, 0x18, 0xcb,
                                          0x01, 0x22, 0x02, 0x10, 0x03, 0x22, 0x05,
                                          0x08, 0x05, 0x10, 0xc8, 0x01 };
    place *p = *state;
    csp_export_options options = options_for(CSP_EXPORT_CIFF);
    const char *path = write_rows(p, "v.jsonl", rows, 6, 4);
    csp_export_report report;
    int64_t bytes;
    char *text;
    wire file, found;

    options.quant.kind = CSP_QUANT_NONE; /* whole weights may go as they are */
    assert_int_equal(csp_export_vectors(&path, 1, &options, p->out, &report), CSP_OK);
    text = slurp(p, "index.ciff", &bytes);
    file = (wire) { (unsigned char *)text, (unsigned char *)text + bytes };
    (void)read_message(&file);
    found = read_message(&file);
    assert_int_equal(found.end - found.at, sizeof(list));
    assert_memory_equal(found.at, list, sizeof(list));
    free(text);
    check_ciff(p, rows, 6, 1.0);
}

static void bmp_gets_impacts_of_8_bits(void **state)
{
    place *p = *state;
    csp_export_options options = options_for(CSP_EXPORT_CIFF);
    csp_export_report report;

    options.target = CSP_TARGET_BMP;
    options.quant = csp_export_default_quant(CSP_EXPORT_CIFF, CSP_TARGET_BMP);
    assert_int_equal(export_sample(p, &options, &report), CSP_OK);
    assert_int_equal(report.clipped, 0);
    assert_true(report.scale == 255.0 / (double)3.1f);
    check_ciff(p, sample, 4, report.scale);
    (void)snprintf(p->out, sizeof(p->out), "%s/again", p->dir);
    options.quant = (csp_quant) { CSP_QUANT_ROUND, 100.0 };
    assert_int_equal(export_sample(p, &options, &report), CSP_OK);
    assert_int_equal(report.clipped, 1);
}

static void the_manifest_says_what_was_written(void **state)
{
    place *p = *state;
    const csp_export_options options = options_for(CSP_EXPORT_CIFF);
    csp_export_report report;
    json_t *manifest, *mapping;
    const json_t *quant, *file;

    assert_int_equal(export_sample(p, &options, &report), CSP_OK);
    (void)snprintf(p->path, sizeof(p->path), "%s/manifest.json", p->out);
    manifest = json_load_file(p->path, 0, NULL);
    assert_non_null(manifest);
    assert_int_equal(json_integer_value(json_object_get(manifest, "rows")), 4);
    assert_int_equal(json_integer_value(json_object_get(manifest, "postings")), 5);
    assert_int_equal(json_integer_value(json_object_get(manifest, "vocab_size")), 10);
    assert_int_equal(json_integer_value(json_object_get(manifest, "max_term")), 7);
    assert_int_equal(json_integer_value(json_object_get(manifest, "distinct_terms")), 4);
    quant = json_object_get(manifest, "quantisation");
    assert_string_equal(json_string_value(json_object_get(quant, "scheme")), "round");
    assert_true(json_number_value(json_object_get(quant, "scale")) == 100.0);
    assert_int_equal(json_integer_value(json_object_get(quant, "dropped")), 1);
    assert_int_equal(json_integer_value(json_object_get(quant, "max_impact")), 310);
    file = json_array_get(json_object_get(manifest, "files"), 0);
    assert_string_equal(json_string_value(json_object_get(file, "name")), "index.ciff");
    assert_int_equal(strlen(json_string_value(json_object_get(file, "xxh3_128"))), 32);
    assert_string_equal(
        json_string_value(json_object_get(
            json_object_get(json_array_get(json_object_get(manifest, "source"), 0), "meta"),
            "model_hash")),
        "abc");
    json_decref(manifest);
    (void)snprintf(p->path, sizeof(p->path), "%s/token_to_id_mapping.json", p->out);
    mapping = json_load_file(p->path, 0, NULL);
    assert_int_equal(json_object_size(mapping), 4);
    assert_int_equal(json_integer_value(json_object_get(mapping, "7")), 7);
    json_decref(mapping);
}

static void checksums_are_those_of_xxh128sum(void **state)
{
    static const row none[] = { { "x", 0, { 0 }, { 0.0f } } };
    place *p = *state;
    const csp_export_options options = options_for(CSP_EXPORT_SEISMIC);
    const char *path = write_rows(p, "v.jsonl", none, 1, 4);
    csp_export_report report;
    json_t *manifest;

    /* The mapping of no terms is "{\n}\n", whose checksum python-xxhash computed. */
    assert_int_equal(csp_export_vectors(&path, 1, &options, p->out, &report), CSP_OK);
    (void)snprintf(p->path, sizeof(p->path), "%s/manifest.json", p->out);
    manifest = json_load_file(p->path, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(
                            json_array_get(json_object_get(manifest, "files"), 1), "xxh3_128")),
                        "7b4fee7ae37c30a9fe8f136e0b729ce2");
    assert_true(json_is_null(json_object_get(manifest, "quantisation")));
    json_decref(manifest);
}

static void tokens_stand_for_terms(void **state)
{
    place *p = *state;
    csp_export_options options = options_for(CSP_EXPORT_SEISMIC);
    csp_export_report report;
    json_t *line;
    char *text;

    options.key = key_of;
    options.key_context = "\xc4\xa0"
                          "cat\"";
    options.key_kind = "token";
    assert_int_equal(export_sample(p, &options, &report), CSP_OK);
    text = slurp(p, "documents.jsonl", NULL);
    line = line_of(text, 0);
    assert_true((float)json_number_value(json_object_get(json_object_get(line, "vector"),
                                                         "\xc4\xa0"
                                                         "cat\"")) == 1.2345678f);
    json_decref(line);
    free(text);
}

/* Impacts as they are, with what was counted when they were made; what a reader cuts of that is
 * counted once. */
static void impacts_are_taken_as_they_are(void **state)
{
    static const int32_t term[] = { 1, 2, 3 };
    static const float impact[] = { 300.0f, 200.0f, (float)CSP_IMPACT_MOST };
    const csp_vectors_head head = { 10, "document", NULL, { CSP_QUANT_CEIL, 7.0 } };
    const csp_quant_counts counts = { .dropped = 2, .clipped = 1 };
    place *p = *state;
    csp_export_options options = options_for(CSP_EXPORT_CIFF);
    csp_vectors_writer *writer;
    csp_export_report report;
    char path[128];
    const char *paths[] = { path };

    (void)snprintf(path, sizeof(path), "%s/impacts.h5", p->dir);
    assert_int_equal(csp_vectors_create(path, &head, &writer), CSP_OK);
    csp_vectors_count(writer, &counts);
    assert_int_equal(csp_vectors_append(writer, "d", 3, term, impact), CSP_OK);
    assert_int_equal(csp_vectors_commit(writer), CSP_OK);
    assert_int_equal(csp_export_vectors(paths, 1, &options, p->out, &report), CSP_ERR_ARGUMENT);
    assert_non_null(strstr(csp_error_text(), "impacts of ceil:7"));
    assert_false(csp_file_exists(p->out));
    options.quant_is_default = true;
    for (int bmp = 0; bmp <= 1; bmp++) {
        (void)snprintf(p->out, sizeof(p->out), "%s/out-%d", p->dir, bmp);
        options.target = bmp == 1 ? CSP_TARGET_BMP : CSP_TARGET_ANY;
        assert_int_equal(csp_export_vectors(paths, 1, &options, p->out, &report), CSP_OK);
        assert_int_equal(report.postings, 3);
        assert_int_equal(report.dropped, 2);
        assert_int_equal(report.clipped, bmp == 1 ? 2 : 1);
        assert_true(report.scale == 7.0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(seismic_keeps_every_weight_exactly),
        CASE(anserini_writes_integers_in_shards),
        CASE(anserini_queries_repeat_their_terms),
        CASE(ciff_holds_every_posting),
        CASE(ciff_is_as_its_header_draws_it),
        CASE(bmp_gets_impacts_of_8_bits),
        CASE(the_manifest_says_what_was_written),
        CASE(checksums_are_those_of_xxh128sum),
        CASE(tokens_stand_for_terms),
        CASE(impacts_are_taken_as_they_are),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
