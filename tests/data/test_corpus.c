/* test_corpus.c - reading collections: formats, folders, gzip, bad input, texts at random. */
#include "scratch.h"

#include "data/text_store.h"

/* Reads a scratch file to its end; the first rows go to "id=text;" in out. */
static csp_status read_all(const char *name, const csp_texts_options *options, char *out,
                           size_t size, int64_t *count)
{
    csp_texts *texts = NULL;
    csp_text_row row;
    csp_status status = csp_texts_open(at(name), options, &texts);
    size_t used = 0;

    out[0] = '\0';
    while (status == CSP_OK) {
        status = csp_texts_next(texts, &row);
        if (status != CSP_OK || row.text == NULL) {
            break;
        }
        if (used < size) {
            used += (size_t)snprintf(out + used, size - used, "%s=%.*s;",
                                     row.id != NULL ? row.id : "-", (int)row.bytes, row.text);
        }
    }
    if (status == CSP_OK) {
        *count = csp_texts_count(texts);
    }
    csp_texts_close(texts);
    return status;
}

static void assert_reads(const char *name, csp_side side, const char *wanted)
{
    const csp_texts_options options = { .side = side };
    char got[1000];
    int64_t count = -1;

    if (read_all(name, &options, got, sizeof(got), &count) != CSP_OK) {
        fail_msg("%s: %s", name, csp_error_text());
    }
    assert_string_equal(got, wanted);
}

static void reads_the_keys_of_every_jsonl_dialect(void **state)
{
    put_text("a.jsonl", "{\"_id\": \"d1\", \"title\": \"T\", \"text\": \"one\", \"metadata\": {}}\n"
                        "{\"_id\": \"d2\", \"title\": \"\", \"text\": \"two\"}\r\n"
                        "\n"
                        "{\"docid\": \"d3\", \"text\": \"three\"}\n"
                        "{\"id\": 4, \"contents\": \"four\", \"title\": null}\n"
                        "{\"_id\": \"d5\", \"title\": \"only a title\", \"text\": \"\"}\n"
                        "{\"_id\": \"d6\", \"text\": \"Stra\\u00dfe\"}");
    assert_reads("a.jsonl", CSP_SIDE_PASSAGE,
                 "d1=T one;d2=two;d3=three;4=four;d5=only a title;d6=Stra\xC3\x9F"
                 "e;");
    put_text("q.jsonl", "{\"_id\": \"q1\", \"text\": \"one\"}\n"
                        "{\"query_id\": \"q2\", \"query\": \"two\", \"text\": \"no\"}\n"
                        "{\"query_id\": 3, \"query_text\": \"three\"}\n");
    assert_reads("q.jsonl", CSP_SIDE_QUERY, "q1=one;q2=two;3=three;");
}

static void reads_tsv_plain_text_and_gzip(void **state)
{
    put_text("c.tsv", "0\tfirst text\n1\tsecond\twith a tab\n\n2\t\n");
    assert_reads("c.tsv", CSP_SIDE_PASSAGE, "0=first text;1=second\twith a tab;2=;");
    put_text("c.txt", "first\n\nthird");
    assert_reads("c.txt", CSP_SIDE_PASSAGE, "1=first;2=;3=third;");
    put_gzip("c.tsv.gz", "0\tfirst\n1\tsecond\n");
    assert_reads("c.tsv.gz", CSP_SIDE_PASSAGE, "0=first;1=second;");
    put_gzip("c.jsonl.gz", "{\"_id\":\"a\",\"text\":\"b\"}\n");
    assert_reads("c.jsonl.gz", CSP_SIDE_PASSAGE, "a=b;");
    put_text("empty.jsonl", "");
    assert_reads("empty.jsonl", CSP_SIDE_PASSAGE, "");
    put_text("mark.jsonl", "\xEF\xBB\xBF{\"_id\":\"a\",\"text\":\"b\"}\n");
    assert_reads("mark.jsonl", CSP_SIDE_PASSAGE, "a=b;");
}

static void finds_the_files_of_a_beir_folder_by_side(void **state)
{
    make_dir("beir");
    put_text("beir/corpus.jsonl", "{\"_id\":\"d\",\"text\":\"document\"}\n");
    put_gzip("beir/queries.jsonl.gz", "{\"_id\":\"q\",\"text\":\"query\"}\n");
    assert_reads("beir", CSP_SIDE_PASSAGE, "d=document;");
    assert_reads("beir", CSP_SIDE_QUERY, "q=query;");
    make_dir("bare");
    csp_texts *texts = NULL;
    assert_int_equal(csp_texts_open(at("bare"), NULL, &texts), CSP_ERR_IO);
    assert_says("no corpus.jsonl");
    assert_null(texts);
}

static void tells_jsonl_by_its_first_line_and_asks_otherwise(void **state)
{
    const csp_texts_options tsv = { .format = CSP_TEXT_TSV, .side = CSP_SIDE_PASSAGE };
    char got[100];
    int64_t count;

    put_text("noname", "{\"_id\":\"a\",\"text\":\"b\"}\n{\"_id\":\"c\",\"text\":\"d\"}\n");
    assert_reads("noname", CSP_SIDE_PASSAGE, "a=b;c=d;");
    put_text("other.dat", "a\tb\n");
    assert_int_equal(read_all("other.dat", NULL, got, sizeof(got), &count), CSP_ERR_ARGUMENT);
    assert_says("cannot tell its format");
    assert_int_equal(read_all("other.dat", &tsv, got, sizeof(got), &count), CSP_OK);
    assert_string_equal(got, "a=b;");
    assert_int_equal(read_all("missing.tsv", NULL, got, sizeof(got), &count), CSP_ERR_IO);
    assert_says("missing.tsv");
}

static void joins_title_and_text_by_the_contracts_separator(void **state)
{
    const csp_texts_options options = { .side = CSP_SIDE_PASSAGE, .separator = " | " };
    char got[100];
    int64_t count;

    put_text("s.jsonl", "{\"_id\":\"a\",\"title\":\"T\",\"text\":\"b\"}\n");
    assert_int_equal(read_all("s.jsonl", &options, got, sizeof(got), &count), CSP_OK);
    assert_string_equal(got, "a=T | b;");
}

static void refuses_every_bad_line_by_file_and_line(void **state)
{
    static const struct {
        const char *name, *text, *message;
        csp_status status;
    } cases[] = {
        { "b.jsonl", "{\"_id\":\"a\",\"text\":\"b\"}\n{\"_id\":\"c\",", ":2: not JSON",
          CSP_ERR_FORMAT },
        { "b.jsonl", "{\"_id\":\"a\",\"text\":\"b\"}}\n", ":1: not JSON", CSP_ERR_FORMAT },
        { "b.jsonl", "[1]\n", ":1: not a JSON object", CSP_ERR_FORMAT },
        { "b.jsonl", "{\"text\":\"b\"}\n", ":1: no id (_id, id or docid)", CSP_ERR_FORMAT },
        { "b.jsonl", "{\"_id\":\"\",\"text\":\"b\"}\n", ":1: _id is empty", CSP_ERR_FORMAT },
        { "b.jsonl", "{\"_id\":1.5,\"text\":\"b\"}\n", ":1: _id is neither", CSP_ERR_FORMAT },
        { "b.jsonl", "{\"_id\":null,\"text\":\"b\"}\n", ":1: _id is neither", CSP_ERR_FORMAT },
        { "b.jsonl", "{\"_id\":\"a\\u0000b\",\"text\":\"b\"}\n", "NUL", CSP_ERR_FORMAT },
        { "b.jsonl", "{\"_id\":\"a\"}\n", ":1: no text (text or contents)", CSP_ERR_FORMAT },
        { "b.jsonl", "{\"_id\":\"a\",\"text\":7}\n", ":1: text is not a text", CSP_ERR_FORMAT },
        { "b.jsonl", "{\"_id\":\"a\",\"text\":\"b\",\"title\":[]}\n", ":1: title is not a text",
          CSP_ERR_FORMAT },
        { "b.jsonl", "{\"_id\":\"a\",\"_id\":\"b\",\"text\":\"b\"}\n", ":1: not JSON: duplicate",
          CSP_ERR_FORMAT },
        { "b.jsonl", "{\"_id\":\"a\",\"text\":\"b\"}\n\n{\"_id\":\"a\",\"text\":\"c\"}\n",
          ":3: duplicate id \"a\"", CSP_ERR_DATA },
        { "b.jsonl", "{\"_id\":\"a\",\"text\":\"\xFF\"}\n", ":1: invalid UTF-8: byte 0xFF",
          CSP_ERR_FORMAT },
        { "b.jsonl", "{\"_id\":\"a\",\"text\":\"\\ud800\"}\n", ":1: not JSON", CSP_ERR_FORMAT },
        { "b.tsv", "a\tb\nc d\n", ":2: no tab", CSP_ERR_FORMAT },
        { "b.tsv", "\tb\n", ":1: the id before the tab is empty", CSP_ERR_FORMAT },
        { "b.tsv", "a\tb\na\tc\n", ":2: duplicate id \"a\"", CSP_ERR_DATA },
        { "b.tsv", "a\tb\xC3\x28\n", ":1: invalid UTF-8: byte 0xC3 at column 4", CSP_ERR_FORMAT },
        { "b.txt", "fine\nb\x80\n", ":2: invalid UTF-8", CSP_ERR_FORMAT },
    };
    char got[1000];
    int64_t count = 77;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        put_text(cases[i].name, cases[i].text);
        assert_int_equal(read_all(cases[i].name, NULL, got, sizeof(got), &count), cases[i].status);
        assert_says(cases[i].message);
        assert_says(cases[i].name);
    }
    put_bytes("nul.tsv", "a\0b\tc\n", 6);
    assert_int_equal(read_all("nul.tsv", NULL, got, sizeof(got), &count), CSP_ERR_FORMAT);
    assert_says("NUL");
    assert_int_equal(count, 77);
}

static void a_cut_gzip_file_is_an_error_not_an_end(void **state)
{
    char got[100], bytes[4096];
    int64_t count;
    FILE *file;
    size_t n;

    put_gzip("cut.jsonl.gz", "{\"_id\":\"a\",\"text\":\"some words\"}\n"
                             "{\"_id\":\"b\",\"text\":\"some other words\"}\n");
    file = fopen(at("cut.jsonl.gz"), "rb");
    n = fread(bytes, 1, sizeof(bytes), file);
    (void)fclose(file);
    put_bytes("cut.jsonl.gz", bytes, n - 12);
    assert_int_equal(read_all("cut.jsonl.gz", NULL, got, sizeof(got), &count), CSP_ERR_FORMAT);
    assert_says("cut.jsonl.gz");
}

static void empty_texts_are_counted_and_refused_only_where_strict(void **state)
{
    csp_texts_options options = { .side = CSP_SIDE_PASSAGE };
    csp_texts *texts = NULL;
    csp_text_row row;

    put_text("e.jsonl", "{\"_id\":\"a\",\"text\":\"b\"}\n"
                        "{\"_id\":\"c\",\"title\":\"\",\"text\":\" \\n\\t\"}\n");
    assert_int_equal(csp_texts_open(at("e.jsonl"), &options, &texts), CSP_OK);
    assert_int_equal(csp_texts_next(texts, &row), CSP_OK);
    assert_int_equal(csp_texts_empty(texts), 0);
    assert_int_equal(csp_texts_next(texts, &row), CSP_OK);
    assert_int_equal(csp_texts_empty(texts), 1);
    assert_int_equal(csp_texts_line(texts), 2);
    assert_int_equal(csp_texts_next(texts, &row), CSP_OK);
    assert_null(row.text);
    assert_int_equal(csp_texts_count(texts), 2);
    csp_texts_close(texts);

    options.strict = true;
    assert_int_equal(csp_texts_open(at("e.jsonl"), &options, &texts), CSP_OK);
    assert_int_equal(csp_texts_next(texts, &row), CSP_OK);
    assert_int_equal(csp_texts_next(texts, &row), CSP_ERR_DATA);
    assert_says("e.jsonl:2: empty text");
    csp_texts_close(texts);
}

/* Every text of the store, and of the same once more, is the one the stream gives, in any order. */
static void assert_store_matches_stream(const char *path, csp_side side)
{
    const csp_texts_options options = { .side = side };
    char digest[CSP_DIGEST_TEXT_BYTES], same[CSP_DIGEST_TEXT_BYTES];
    csp_text_store *store = NULL, *twin = NULL;
    csp_texts *texts = NULL;
    csp_text_row row, again, other;
    int64_t n;

    if (csp_text_store_open(path, &options, &store) != CSP_OK) {
        fail_msg("%s", csp_error_text());
    }
    n = csp_text_store_count(store);
    assert_int_equal(csp_text_store_again(store, &options, &twin), CSP_OK);
    csp_text_store_digest(store, digest);
    csp_text_store_digest(twin, same);
    assert_string_equal(digest, same);
    assert_int_equal(csp_text_store_count(twin), n);
    assert_int_equal(csp_text_store_empty(twin), csp_text_store_empty(store));
    assert_int_equal(csp_texts_open(path, &options, &texts), CSP_OK);
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(csp_texts_next(texts, &row), CSP_OK);
        assert_int_equal(csp_text_store_find(store, row.id), i);
        assert_int_equal(csp_text_store_read(store, (i * 7) % n, &again), CSP_OK);
        assert_int_equal(csp_text_store_read(store, i, &again), CSP_OK);
        assert_int_equal(csp_text_store_read(twin, (i * 11) % n, &other), CSP_OK);
        assert_string_equal(other.id, csp_text_store_id(store, (i * 11) % n));
        assert_int_equal(csp_text_store_read(twin, i, &other), CSP_OK);
        assert_int_equal(other.bytes, row.bytes);
        assert_memory_equal(other.text, row.text, (size_t)row.bytes);
        assert_int_equal(csp_text_store_find(twin, row.id), i);
        assert_int_equal(csp_text_store_bytes(twin, i), csp_text_store_bytes(store, i));
        assert_string_equal(again.id, row.id);
        assert_int_equal(again.bytes, row.bytes);
        assert_memory_equal(again.text, row.text, (size_t)row.bytes);
    }
    assert_int_equal(csp_texts_next(texts, &row), CSP_OK);
    assert_null(row.text);
    assert_int_equal(csp_text_store_find(store, "no such id"), -1);
    csp_texts_close(texts);
    csp_text_store_close(twin);
    csp_text_store_close(store);
}

static void a_store_gives_the_texts_of_the_stream_in_any_order(void **state)
{
    FILE *file = fopen(at("r.jsonl"), "wb");

    /* Lines around and beyond the size of one read; a byte order mark; both kinds of line end. */
    (void)fputs("\xEF\xBB\xBF", file);
    for (int i = 0; i < 60; i++) {
        (void)fprintf(file, "{\"_id\":\"d%d\",\"title\":\"t\",\"text\":\"", i);
        for (int j = 0; j < i * 331; j++) {
            (void)fputc('a' + (i + j) % 26, file);
        }
        (void)fputs(i % 2 == 0 ? "\"}\r\n" : "\"}\n\n", file);
    }
    (void)fclose(file);
    assert_store_matches_stream(at("r.jsonl"), CSP_SIDE_PASSAGE);
    put_text("r.txt", "one\n\nthree\nfour");
    assert_store_matches_stream(at("r.txt"), CSP_SIDE_PASSAGE);
    put_gzip("r.tsv.gz", "0\tfirst\n1\tsecond\n2\t\n3\tfourth");
    assert_store_matches_stream(at("r.tsv.gz"), CSP_SIDE_PASSAGE);
}

static void a_store_notices_a_file_that_changed(void **state)
{
    static const csp_texts_options options = { .side = CSP_SIDE_PASSAGE };
    csp_text_store *store = NULL, *twin = NULL;
    csp_text_row row;

    put_text("ch.jsonl", "{\"_id\":\"a\",\"text\":\"b\"}\n{\"_id\":\"c\",\"text\":\"d\"}\n");
    assert_int_equal(csp_text_store_open(at("ch.jsonl"), NULL, &store), CSP_OK);
    put_text("ch.jsonl", "{\"_id\":\"xx\",\"text\":\"b\"}\n{\"_id\":\"c\",\"text\":\"d\"}\n");
    assert_int_equal(csp_text_store_read(store, 1, &row), CSP_ERR_DATA);
    assert_says("has changed since it was opened");
    assert_int_equal(csp_text_store_read(store, 0, &row), CSP_ERR_DATA);
    assert_int_equal(csp_text_store_read(store, 2, &row), CSP_ERR_ARGUMENT);
    assert_int_equal(remove(at("ch.jsonl")), 0);
    assert_int_equal(csp_text_store_again(store, &options, &twin), CSP_OK);
    assert_int_equal(csp_text_store_read(twin, 1, &row), CSP_ERR_DATA);
    assert_says("has changed since it was opened");
    csp_text_store_close(twin);
    csp_text_store_close(store);
}

static void every_allocation_of_a_store_may_fail(void **state)
{
    static const csp_texts_options options = { .side = CSP_SIDE_PASSAGE };
    csp_status status;
    csp_text_store *store = NULL, *twin = NULL;
    csp_text_row row;
    long n = 0;

    put_gzip("f.jsonl.gz", "{\"_id\":\"a\",\"title\":\"t\",\"text\":\"b\"}\n");
    do {
        csp_fault_arm(++n);
        status = csp_text_store_open(at("f.jsonl.gz"), NULL, &store);
        if (status == CSP_OK) {
            status = csp_text_store_again(store, &options, &twin);
            if (status == CSP_OK) {
                status = csp_text_store_read(twin, 0, &row);
                csp_text_store_close(twin);
                twin = NULL;
            }
            if (status == CSP_OK) {
                status = csp_text_store_read(store, 0, &row);
            }
            assert_null(twin);
            if (status != CSP_OK) {
                csp_text_store_close(store);
                store = NULL;
            }
        } else {
            assert_null(store);
        }
        assert_true(status == CSP_OK || status == CSP_ERR_MEMORY);
    } while (status != CSP_OK && n < 200);
    csp_fault_arm(0);
    assert_int_equal(status, CSP_OK);
    assert_true(n > 10);
    csp_text_store_close(store);
}

/* Any bytes at all: no crash, and a message. */
static void damaged_lines_never_crash(void **state)
{
    static const char line[] =
        "{\"_id\": \"d1\", \"title\": \"T\\u00e9\", \"text\": \"one \\\"two\\\"\"}";
    char text[sizeof(line) + 1], got[200];
    int64_t count;
    uint32_t noise = 12345;

    for (int i = 0; i < 600; i++) {
        memcpy(text, line, sizeof(line));
        for (int j = 0; j <= i % 3; j++) {
            noise = noise * 1664525u + 1013904223u;
            text[(noise >> 8) % (sizeof(line) - 1)] ^= (char)(1u << (noise >> 29));
        }
        put_bytes("noise.jsonl", text, i % 5 == 0 ? (noise >> 8) % sizeof(line) : sizeof(line) - 1);
        if (read_all("noise.jsonl", NULL, got, sizeof(got), &count) != CSP_OK) {
            assert_says("noise.jsonl:");
        }
    }
}

static void reads_the_shared_collections(void **state)
{
    static const struct {
        const char *name;
        int64_t documents, queries, empty;
    } sets[] = { { "cranfield", 1400, 225, 2 },
                 { "scifact", 5183, 1109, 0 },
                 { "qed-nq", 1343, 1355, 0 },
                 { "debpkg", 15872, 15872, 0 } };

    for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
        const csp_texts_options queries = { .side = CSP_SIDE_QUERY };
        char path[300];
        csp_text_store *store = NULL;

        if (!shared_is_here(sets[i].name)) {
            skip();
        }
        (void)snprintf(path, sizeof(path), SHARED "%s", sets[i].name);
        assert_int_equal(csp_text_store_open(path, NULL, &store), CSP_OK);
        assert_int_equal(csp_text_store_count(store), sets[i].documents);
        assert_int_equal(csp_text_store_empty(store), sets[i].empty);
        csp_text_store_close(store);
        assert_int_equal(csp_text_store_open(path, &queries, &store), CSP_OK);
        assert_int_equal(csp_text_store_count(store), sets[i].queries);
        csp_text_store_close(store);
    }
    assert_store_matches_stream(SHARED "cranfield", CSP_SIDE_PASSAGE);
    assert_store_matches_stream(SHARED "cranfield", CSP_SIDE_QUERY);
}

static void reads_the_shared_samples_of_formats(void **state)
{
    if (!shared_is_here("formats")) {
        skip();
    }
    assert_store_matches_stream(SHARED "formats/msmarco/collection.tsv", CSP_SIDE_PASSAGE);
    assert_store_matches_stream(SHARED "formats/msmarco/queries.train.tsv", CSP_SIDE_QUERY);
    assert_store_matches_stream(SHARED "formats/tevatron/corpus.jsonl", CSP_SIDE_PASSAGE);
    assert_store_matches_stream(SHARED "formats/tevatron/train.jsonl", CSP_SIDE_QUERY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_keys_of_every_jsonl_dialect),
        cmocka_unit_test(reads_tsv_plain_text_and_gzip),
        cmocka_unit_test(finds_the_files_of_a_beir_folder_by_side),
        cmocka_unit_test(tells_jsonl_by_its_first_line_and_asks_otherwise),
        cmocka_unit_test(joins_title_and_text_by_the_contracts_separator),
        cmocka_unit_test(refuses_every_bad_line_by_file_and_line),
        cmocka_unit_test(a_cut_gzip_file_is_an_error_not_an_end),
        cmocka_unit_test(empty_texts_are_counted_and_refused_only_where_strict),
        cmocka_unit_test(a_store_gives_the_texts_of_the_stream_in_any_order),
        cmocka_unit_test(a_store_notices_a_file_that_changed),
        cmocka_unit_test(every_allocation_of_a_store_may_fail),
        cmocka_unit_test(damaged_lines_never_crash),
        cmocka_unit_test(reads_the_shared_collections),
        cmocka_unit_test(reads_the_shared_samples_of_formats),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
