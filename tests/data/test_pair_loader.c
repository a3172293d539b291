/* test_pair_loader.c - whole steps: pairs, tokens, cache, batches; small files and real data. */
#include "scratch.h"

#include "core/log.h"
#include "data/batch.h"
#include "data/pair_loader.h"

static void assert_same_lists(const csp_token_lists *a, int64_t from, const csp_token_lists *b)
{
    for (int64_t i = 0; i < b->count; i++) {
        int64_t n, m;
        const int32_t *x = csp_token_lists_get(a, from + i, &n);
        const int32_t *y = csp_token_lists_get(b, i, &m);

        assert_int_equal(n, m);
        if (n > 0) {
            assert_memory_equal(x, y, (size_t)n * sizeof(*x));
        }
    }
}

/* Cached or not, whole or in parts, before or after other steps: the same tokens. */
static void assert_steps_do_not_depend_on_history(csp_pairs *pairs, csp_text_encoder *encoder,
                                                  int64_t steps)
{
    const csp_sampling sampling = { .seed = 1, .Q = 6, .G = 4 };
    csp_pair_loader *cached = NULL, *bare = NULL;
    csp_pair_step a = { 0 }, b = { 0 };

    assert_int_equal(csp_pair_loader_create(pairs, encoder, 4 << 20, &cached), CSP_OK);
    assert_int_equal(csp_pair_loader_create(pairs, encoder, 0, &bare), CSP_OK);
    for (int64_t step = 0; step < steps; step++) {
        if (csp_pair_loader_load(cached, &sampling, step, 0, 6, &a) != CSP_OK) {
            fail_msg("%s", csp_error_text());
        }
        assert_int_equal(a.queries.count, 6);
        assert_int_equal(a.documents.count, 24);
        assert_int_equal(a.query_base, 0);
        assert_int_equal(a.document_base, 6);
        for (int64_t first = 4; first >= 0; first -= 2) {
            if (step % 3 != 0) {
                break; /* the cache has seen every step, the other loader a third of them */
            }
            assert_int_equal(csp_pair_loader_load(bare, &sampling, step, first, 2, &b), CSP_OK);
            assert_int_equal(b.query_base, first);
            assert_int_equal(b.document_base, 6 + 4 * first);
            assert_same_lists(&a.queries, first, &b.queries);
            assert_same_lists(&a.documents, 4 * first, &b.documents);
        }
    }
    csp_pair_step_clear(&a);
    csp_pair_step_clear(&b);
    csp_pair_loader_destroy(cached);
    csp_pair_loader_destroy(bare);
}

static void training_lines_give_the_same_steps_with_and_without_cache(void **state)
{
    char path[300];
    const csp_pairs_source source = { .train = path };
    csp_tokenizer *tokenizer = letters();
    csp_text_encoder *encoder = NULL;
    csp_contract contract;
    csp_pairs *pairs = NULL;
    FILE *file;

    (void)snprintf(path, sizeof(path), "%s", at("train.jsonl"));
    file = fopen(path, "wb");
    for (int i = 0; i < 9; i++) {
        (void)fprintf(file,
                      "{\"query_id\":\"%d\",\"query\":\"query %d\",\"positive_passages\":[{"
                      "\"docid\":\"p%d\",\"title\":\"t\",\"text\":\"positive %d\"}],"
                      "\"negative_passages\":[{\"docid\":\"n%d\",\"text\":\"negative %d\"},"
                      "{\"docid\":\"e%d\",\"text\":\"\"}]}\n",
                      i, i, i, i, i, i, i);
    }
    (void)fclose(file);
    assert_int_equal(csp_contract_init(&contract), CSP_OK);
    assert_int_equal(csp_text_encoder_create(&contract, tokenizer, false, &encoder), CSP_OK);
    assert_int_equal(csp_pairs_open(&source, &pairs), CSP_OK);
    assert_steps_do_not_depend_on_history(pairs, encoder, 12);
    assert_true(csp_text_encoder_counts(encoder, CSP_SIDE_PASSAGE)->empty > 0);
    csp_pairs_close(pairs);
    csp_text_encoder_destroy(encoder);
    csp_contract_clear(&contract);
    csp_tokenizer_close(tokenizer);
}

static void the_shared_collections_load_into_batches(void **state)
{
    static const char *const names[] = { "cranfield", "scifact", "qed-nq" };
    csp_tokenizer *tokenizer = NULL;
    csp_text_encoder *encoder = NULL;
    csp_contract contract;

    if (!shared_is_here("tokenizers/llama3-style-8k/tokenizer.json.gz")) {
        skip();
    }
    assert_int_equal(
        csp_tokenizer_open(SHARED "tokenizers/llama3-style-8k/tokenizer.json.gz", &tokenizer),
        CSP_OK);
    assert_int_equal(csp_contract_init(&contract), CSP_OK);
    contract.variant = CSP_VARIANT_ECHO;
    contract.passage_max_len = 64;
    assert_int_equal(csp_text_encoder_create(&contract, tokenizer, false, &encoder), CSP_OK);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char folder[400];
        const csp_pairs_source source = { .corpus = folder };
        const csp_sampling sampling = { .seed = 1, .Q = 16, .G = 8 };
        csp_pairs *pairs = NULL;
        csp_pair_loader *loader = NULL;
        csp_pair_step loaded = { 0 };
        csp_batch batch = { 0 };

        if (!shared_is_here(names[i])) {
            continue;
        }
        (void)snprintf(folder, sizeof(folder), SHARED "%s", names[i]);
        assert_int_equal(csp_pairs_open(&source, &pairs), CSP_OK);
        assert_steps_do_not_depend_on_history(pairs, encoder, 4);
        assert_int_equal(csp_pair_loader_create(pairs, encoder, 1 << 20, &loader), CSP_OK);
        assert_int_equal(csp_pair_loader_load(loader, &sampling, 3, 0, 16, &loaded), CSP_OK);
        assert_int_equal(
            csp_batch_pack(&contract, &loaded.documents, 0, 128, loaded.document_base, &batch),
            CSP_OK);
        assert_int_equal(batch.B, 128);
        assert_true(batch.max_len <= 128);
        for (int64_t n = 0; n < batch.N; n++) {
            assert_true(batch.tokens[n] >= 0 &&
                        batch.tokens[n] < csp_tokenizer_vocab_size(tokenizer));
        }
        csp_batch_clear(&batch);
        csp_pair_step_clear(&loaded);
        csp_pair_loader_destroy(loader);
        csp_pairs_close(pairs);
    }
    assert_true(csp_text_encoder_counts(encoder, CSP_SIDE_PASSAGE)->truncated > 0);
    csp_text_encoder_destroy(encoder);
    csp_contract_clear(&contract);
    csp_tokenizer_close(tokenizer);
}

static int begin(void **state)
{
    csp_log_set_level(CSP_LOG_NONE);
    return scratch_make(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_lines_give_the_same_steps_with_and_without_cache),
        cmocka_unit_test(the_shared_collections_load_into_batches),
    };

    return cmocka_run_group_tests(tests, begin, scratch_remove);
}
