/*
 * test_text_files.c - a collection in shards is the same as in one file: texts, ordinals, digest;
 * ids are unique across; and what a folder of shards must hold.
 */
#include "data/scratch.h"

#include "data/text_files.h"
#include "data/text_store.h"

/* Lines of three shards; the second is empty but for a blank line, the third is compressed. */
static const char first[] =
    "{\"_id\":\"a\",\"text\":\"one\"}\n\n{\"_id\":\"b\",\"text\":\"two two\"}\n";
static const char second[] = "\n";
static const char third[] =
    "{\"_id\":\"c\",\"text\":\"three\"}\r\n{\"_id\":\"d\",\"text\":\"four\"}";

static void make_shards(const char *folder)
{
    char name[200];

    make_dir(folder);
    (void)snprintf(name, sizeof(name), "%s/corpus-00002-of-00003.jsonl.gz", folder);
    put_gzip(name, third);
    (void)snprintf(name, sizeof(name), "%s/corpus-00000-of-00003.jsonl", folder);
    put_text(name, first);
    (void)snprintf(name, sizeof(name), "%s/corpus-00001-of-00003.jsonl", folder);
    put_text(name, second);
    (void)snprintf(name, sizeof(name), "%s/corpus-notes.jsonl", folder);
    put_text(name, "not a shard");
}

static void shards_are_one_collection(void **state)
{
    static const char *const ids[] = { "a", "b", "c", "d" };
    static const char *const texts[] = { "one", "two two", "three", "four" };
    char digest[CSP_DIGEST_TEXT_BYTES], want[CSP_DIGEST_TEXT_BYTES];
    csp_text_store *shards, *whole;

    (void)state;
    make_shards("s");
    make_dir("w");
    put_text("w/corpus.jsonl",
             "{\"_id\":\"a\",\"text\":\"one\"}\n{\"_id\":\"b\",\"text\":\"two two\"}\n"
             "{\"_id\":\"c\",\"text\":\"three\"}\n{\"_id\":\"d\",\"text\":\"four\"}\n");
    assert_int_equal(csp_text_store_open(at("s"), NULL, &shards), CSP_OK);
    assert_int_equal(csp_text_store_open(at("w"), NULL, &whole), CSP_OK);
    assert_int_equal(csp_text_store_count(shards), 4);
    csp_text_store_digest(shards, digest);
    csp_text_store_digest(whole, want);
    assert_string_equal(digest, want);
    for (int turn = 0; turn < 8; turn++) {
        const int i = (turn * 3) % 4;
        csp_text_row row;

        assert_int_equal(csp_text_store_read(shards, i, &row), CSP_OK);
        assert_string_equal(row.id, ids[i]);
        assert_int_equal(row.bytes, strlen(texts[i]));
        assert_memory_equal(row.text, texts[i], strlen(texts[i]));
        assert_int_equal(csp_text_store_find(shards, ids[i]), i);
    }
    /* Between lines of one file only it is known how long one is. */
    assert_int_equal(csp_text_store_bytes(shards, 0), strlen(first) / 2 - 1);
    assert_int_equal(csp_text_store_bytes(shards, 1), 0);
    assert_int_equal(csp_text_store_bytes(shards, 2), strlen(third) / 2 + 1);
    assert_int_equal(csp_text_store_bytes(shards, 3), 0);
    csp_text_store_close(shards);
    csp_text_store_close(whole);
}

static void a_shard_that_changes_is_named(void **state)
{
    csp_text_store *store;
    csp_text_row row;

    (void)state;
    make_shards("c");
    assert_int_equal(csp_text_store_open(at("c"), NULL, &store), CSP_OK);
    put_text("c/corpus-00000-of-00003.jsonl", "{\"_id\":\"x\",\"text\":\"one\"}\n");
    assert_int_equal(csp_text_store_read(store, 0, &row), CSP_ERR_DATA);
    assert_non_null(strstr(csp_error_text(), "corpus-00000-of-00003.jsonl: text 1 is no longer"));
    assert_int_equal(csp_text_store_read(store, 2, &row), CSP_OK); /* kept in memory */
    csp_text_store_close(store);
}

static void expect_refusal(const char *folder, csp_status status, const char *message)
{
    csp_text_store *store;

    assert_int_equal(csp_text_store_open(at(folder), NULL, &store), status);
    assert_says(message);
}

static void what_is_no_whole_collection_is_refused(void **state)
{
    (void)state;
    make_shards("m");
    assert_int_equal(unlink(at("m/corpus-00001-of-00003.jsonl")), 0);
    expect_refusal("m", CSP_ERR_IO, "of 3 shards, corpus-00001-of-00003 is not there");
    put_text("m/corpus-00001-of-00003.jsonl", "");
    put_text("m/corpus-00002-of-00003.jsonl", "");
    expect_refusal("m", CSP_ERR_DATA, "is there twice");
    assert_int_equal(unlink(at("m/corpus-00002-of-00003.jsonl")), 0);
    put_text("m/corpus-00000-of-00004.jsonl", "");
    expect_refusal("m", CSP_ERR_DATA, "shards that others belong to");
    assert_int_equal(unlink(at("m/corpus-00000-of-00004.jsonl")), 0);
    put_text("m/corpus-00003-of-00003.jsonl", "");
    expect_refusal("m", CSP_ERR_DATA, "shards that others belong to");
    assert_int_equal(unlink(at("m/corpus-00003-of-00003.jsonl")), 0);
    put_text("m/corpus-00001-of-00003.jsonl", "\n{\"_id\":\"a\",\"text\":\"again\"}\n");
    expect_refusal("m", CSP_ERR_DATA, "corpus-00001-of-00003.jsonl:2: duplicate id \"a\"");
    put_text("m/corpus-00001-of-00003.jsonl", "{\"_id\":\"e\"}\n");
    expect_refusal("m", CSP_ERR_FORMAT, "corpus-00001-of-00003.jsonl:1: ");
    make_dir("n");
    expect_refusal("n", CSP_ERR_IO, "this folder has no corpus.jsonl (nor corpus.jsonl.gz, nor");
    put_text("n/corpus-1-of-0.jsonl", "");
    put_text("n/corpus-99999999-of-99999999.jsonl", "");
    put_text("n/corpus-1of2.jsonl", "");
    expect_refusal("n", CSP_ERR_IO, "this folder has no corpus.jsonl");
}

static void every_failing_call_leaves_nothing_behind(void **state)
{
    (void)state;
    make_shards("f");
    for (long n = 1;; n++) {
        csp_text_store *store;
        csp_status status;
        long asked;

        csp_fault_arm(n);
        status = csp_text_store_open(at("f"), NULL, &store);
        asked = csp_fault_asked();
        csp_fault_arm(0);
        if (status == CSP_OK) {
            csp_text_store_close(store);
        }
        if (asked < n) {
            assert_int_equal(status, CSP_OK);
            break;
        }
        assert_int_not_equal(status, CSP_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_are_one_collection),
        cmocka_unit_test(a_shard_that_changes_is_named),
        cmocka_unit_test(what_is_no_whole_collection_is_refused),
        cmocka_unit_test(every_failing_call_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
