/*
 * test_prefetch.c - steps that a thread makes ready are those that are made when asked for: texts,
 * shares, masks and counts; failures come with their step; and every way to end it.
 */
#include "io/scratch.h"
#include "support/compare.h"

#include "core/log.h"
#include "io/file.h"
#include "train/train_data.h"

enum { STEPS = 9, QUERIES = 8, GROUP = 3, TEXTS = 8, DOCUMENTS = 21 };

/* A token for every character. */
static const char tokenizer_text[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],"
    "\"normalizer\":null,\"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":null,"
    "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"e\":4,"
    "\" "
    "\":5,\"0\":6,\"1\":7,\"2\":8,\"3\":9,\"4\":10,\"5\":11,\"6\":12,\"7\":13,\"8\":14,\"9\":15}}}";

static const char settings[] =
    "model: {path: m, query_max_len: 30, passage_max_len: 12, query_prefix: '', "
    "passage_prefix: ''}\n"
    "data: {corpus: %s/beir, qrels: %s/beir/qrels/train.tsv, train_group_size: 3, "
    "text: [%s/text.txt], strict: %s, prefetch_factor: %d}\n"
    "adapt: {max_steps: 9, max_len: 10, batch: {texts: 8}}\n"
    "contrastive: {max_steps: 9, batch: {queries: 8}}\n"
    "run: {output_dir: o}\n";

static csp_tokenizer *tokenizer;
static csp_contract contract;

/* Documents of all lengths, two of them too long and one empty; queries with several positives. */
static int make_files(void **state)
{
    FILE *corpus, *queries, *qrels, *text;

    assert_int_equal(scratch_make(state), 0);
    assert_ok(csp_file_make_dirs(scratch_path("beir/qrels")));
    corpus = fopen(scratch_path("beir/corpus.jsonl"), "w");
    queries = fopen(scratch_path("beir/queries.jsonl"), "w");
    qrels = fopen(scratch_path("beir/qrels/train.tsv"), "w");
    text = fopen(scratch_path("text.txt"), "w");
    for (int i = 0; i < DOCUMENTS; i++) {
        fprintf(corpus, "{\"_id\":\"d%d\",\"text\":\"%.*s\"}\n", i,
                i == 5 ? 0 : 1 + (i * 7) % (i % 9 == 4 ? 26 : 12), "abc de 0123 ab dec 0456 dd");
        fprintf(queries, "{\"_id\":\"q%d\",\"text\":\"%d a\"}\n", i, i * 37);
        fprintf(qrels, "q%d 0 d%d 1\nq%d 0 d%d 1\n", i, i, i, (i + 3) % DOCUMENTS);
        fprintf(text, "%d abc %d\n", i, i * i * i);
    }
    assert_int_equal(fclose(corpus) + fclose(queries) + fclose(qrels) + fclose(text), 0);
    assert_ok(
        csp_tokenizer_from_text(tokenizer_text, sizeof(tokenizer_text) - 1, "test", &tokenizer));
    assert_ok(csp_contract_init(&contract));
    contract.query_max_len = 30;
    contract.passage_max_len = 12;
    contract.bos_id = contract.eos_id = -1;
    return 0;
}

static int remove_files(void **state)
{
    csp_tokenizer_close(tokenizer);
    csp_contract_clear(&contract);
    return scratch_remove(state);
}

typedef struct opened {
    csp_config *config;
    csp_train_data *data;
} opened;

static void open_data(opened *o, bool strict, int ahead, int rank, int ranks)
{
    char text[2048];

    snprintf(text, sizeof(text), settings, scratch_dir, scratch_dir, scratch_dir,
             strict ? "true" : "false", ahead);
    assert_ok(csp_config_parse("test", text, &o->config));
    assert_ok(csp_train_data_open(o->config, &contract, tokenizer, rank, ranks, NULL, &o->data));
}

static void close_data(opened *o)
{
    csp_train_data_close(o->data);
    csp_config_free(o->config);
}

/* A step as one block of numbers: whatever differs, differs there. */
typedef struct block {
    int64_t values[4096];
    int64_t count;
} block;

static void put(block *b, int64_t value)
{
    assert_true(b->count < 4096);
    b->values[b->count++] = value;
}

static void put_lists(block *b, const csp_token_lists *lists, const int64_t *numbers)
{
    put(b, lists->count);
    for (int64_t i = 0; i < lists->count; i++) {
        int64_t n;
        const int32_t *ids = csp_token_lists_get(lists, i, &n);

        put(b, numbers[i]);
        put(b, n);
        for (int64_t j = 0; j < n; j++) {
            put(b, ids[j]);
        }
    }
}

static csp_status take(const opened *o, bool adapt, int64_t k, int ranks, block *b)
{
    b->count = 0;
    if (adapt) {
        const csp_token_lists *lists;
        const int64_t *numbers;

        CSP_TRY(csp_train_data_plain(o->data, k, &lists, &numbers));
        put_lists(b, lists, numbers);
    } else {
        csp_contrastive_texts t;

        CSP_TRY(csp_train_data_pairs(o->data, k, &t));
        put_lists(b, t.queries, t.query_text);
        put_lists(b, t.passages, t.passage_text);
        for (int q = 0; q < QUERIES; q++) {
            put(b, t.positive[q]);
        }
        put(b, t.mask != NULL);
        for (int i = 0; t.mask != NULL && i < QUERIES * QUERIES * GROUP / ranks; i++) {
            put(b, t.mask[i]);
        }
    }
    return CSP_OK;
}

static void expect_block(const block *got, const block *want)
{
    assert_int_equal(got->count, want->count);
    assert_memory_equal(got->values, want->values, (size_t)want->count * sizeof(int64_t));
}

/* Lines of csp_train_data_say end up on stderr: they are caught in a file. */
static char *said(const opened *o)
{
    const int before = dup(STDERR_FILENO);
    FILE *file = fopen(scratch_path("said"), "w");
    char *text;
    size_t bytes;

    fflush(stderr);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    csp_log_set_level(CSP_LOG_INFO);
    csp_train_data_say(o->data, "adapt");
    csp_train_data_say(o->data, "contrastive");
    csp_log_set_level(CSP_LOG_NONE);
    fflush(stderr);
    assert_true(dup2(before, STDERR_FILENO) >= 0);
    (void)close(before);
    (void)fclose(file);
    text = scratch_read(scratch_path("said"), &bytes);
    for (char *line = text; *line != '\0'; line = strchr(line, '\n') + 1) {
        memset(line, '0', strlen("12:00:00"));
    }
    return text;
}

static void steps_made_ahead_are_those_made_when_asked_for(void **state)
{
    static const int depths[] = { 1, 2, 5, 40 };
    static block want[STEPS], got;

    (void)state;
    for (int ranks = 1; ranks <= 4; ranks *= 4) {
        for (int adapt = 0; adapt < 2; adapt++) {
            const int rank = ranks - 1;
            char *counts;
            opened o;

            open_data(&o, false, 0, rank, ranks);
            assert_ok(csp_train_data_begin(o.data, adapt ? "adapt" : "contrastive", 2, STEPS));
            for (int k = 2; k < STEPS; k++) {
                assert_ok(take(&o, adapt, k, ranks, &want[k]));
            }
            counts = said(&o);
            close_data(&o);
            for (int i = 0; i < 4; i++) {
                char *again;

                open_data(&o, false, depths[i], rank, ranks);
                assert_ok(csp_train_data_begin(o.data, adapt ? "adapt" : "contrastive", 2, STEPS));
                for (int k = 2; k < STEPS; k++) {
                    assert_ok(take(&o, adapt, k, ranks, &got));
                    expect_block(&got, &want[k]);
                    usleep(k % 3 == 0 ? 2000 : 0); /* the thread is ahead, or is waited for */
                }
                csp_train_data_end(o.data);
                again = said(&o);
                assert_string_equal(again, counts);
                free(again);
                close_data(&o);
            }
            free(counts);
        }
    }
}

/* Only what was handed out counts, however far ahead the thread is. */
static void what_was_made_ahead_and_not_used_is_not_counted(void **state)
{
    block b;
    char *text, *want;
    opened o;

    (void)state;
    open_data(&o, false, 0, 0, 1);
    assert_ok(take(&o, true, 0, 1, &b));
    assert_ok(take(&o, true, 1, 1, &b));
    want = said(&o);
    assert_non_null(strstr(want, "16 texts adapted on"));
    close_data(&o);
    open_data(&o, false, 6, 0, 1);
    assert_ok(csp_train_data_begin(o.data, "adapt", 0, STEPS));
    assert_ok(take(&o, true, 0, 1, &b));
    usleep(20000);
    assert_ok(take(&o, true, 1, 1, &b));
    usleep(20000);
    text = said(&o);
    assert_string_equal(text, want);
    free(text);
    free(want);
    close_data(&o); /* while steps lie ready */
}

/* Writes the documents anew; spoilt: in place, and one of them is not what it was. */
static void write_corpus(bool spoilt)
{
    FILE *corpus = fopen(scratch_path("beir/corpus.jsonl"), spoilt ? "r+" : "w");

    assert_non_null(corpus);
    for (int i = 0; i < DOCUMENTS; i++) {
        fprintf(corpus, "{\"_id\":\"%c%d\",\"text\":\"ab\"}\n", spoilt && i == 13 ? 'x' : 'd', i);
    }
    assert_int_equal(fclose(corpus), 0);
}

/* A file that goes wrong after it was opened: the step that reads it is the first to know. */
static void open_spoilt(opened *o, int ahead)
{
    write_corpus(false);
    open_data(o, true, ahead, 1, 4);
    write_corpus(true);
}

/* A text that changed is in some step: it fails there, not where the thread met it. */
static void a_failure_comes_with_its_step(void **state)
{
    char want[512] = "";
    block b;
    opened o;
    int bad = -1;

    (void)state;
    open_spoilt(&o, 0);
    for (int k = 0; k < STEPS && bad < 0; k++) {
        if (take(&o, false, k, 4, &b) != CSP_OK) {
            bad = k;
            snprintf(want, sizeof(want), "%s", csp_error_text());
        }
    }
    close_data(&o);
    assert_true(bad > 0);
    assert_non_null(strstr(want, "no longer where it was"));
    for (int ahead = 1; ahead <= 16; ahead *= 4) {
        open_spoilt(&o, ahead);
        assert_ok(csp_train_data_begin(o.data, "contrastive", 0, STEPS));
        for (int k = 0; k < bad; k++) {
            usleep(2000);
            assert_ok(take(&o, false, k, 4, &b));
        }
        assert_int_equal(take(&o, false, bad, 4, &b), CSP_ERR_DATA);
        assert_string_equal(csp_error_text(), want);
        close_data(&o);
        /* A run that ends before that step never hears of it. */
        open_spoilt(&o, ahead);
        assert_ok(csp_train_data_begin(o.data, "contrastive", 0, STEPS));
        assert_ok(take(&o, false, 0, 4, &b));
        usleep(5000);
        close_data(&o);
    }
    write_corpus(false);
}

/* Under data.strict a text that is too long is found before any step, by the rank it falls to. */
static void strict_data_is_checked_when_it_is_opened(void **state)
{
    int refused = 0;

    (void)state;
    write_corpus(false);
    FILE *corpus = fopen(scratch_path("beir/corpus.jsonl"), "a");
    fprintf(corpus, "{\"_id\":\"longest\",\"text\":\"abcde abcde abcde\"}\n");
    assert_int_equal(fclose(corpus), 0);
    for (int rank = 0; rank < 4; rank++) {
        csp_train_data *data = NULL;
        csp_config *config;
        char text[2048];

        snprintf(text, sizeof(text), settings, scratch_dir, scratch_dir, scratch_dir, "true", 0);
        assert_ok(csp_config_parse("test", text, &config));
        if (csp_train_data_open(config, &contract, tokenizer, rank, 4, NULL, &data) != CSP_OK) {
            assert_error_has("\"longest\" has 21 tokens");
            refused++;
        }
        csp_train_data_close(data);
        csp_config_free(config);
    }
    assert_int_equal(refused, 1);
    write_corpus(false);
}

static void it_ends_wherever_it_is(void **state)
{
    block b;
    opened o;

    (void)state;
    open_data(&o, false, 3, 0, 2);
    for (int taken = 0; taken < STEPS; taken++) {
        assert_ok(csp_train_data_begin(o.data, "adapt", 0, STEPS)); /* ends the one before */
        for (int k = 0; k < taken; k++) {
            assert_ok(take(&o, true, k, 2, &b));
        }
        usleep(taken % 2 == 0 ? 1000 : 0);
    }
    assert_ok(csp_train_data_begin(o.data, "adapt", STEPS, STEPS)); /* nothing is left to do */
    csp_train_data_end(o.data);
    csp_train_data_end(o.data);
    assert_ok(take(&o, true, 4, 2, &b)); /* without a thread any step can be asked for */
    close_data(&o);
}

/*
 * Each allocation fails once: with the thread's step, or when it is started. One that only a cache
 * of tokens wanted is no failure, and changes nothing.
 */
static void every_failing_call_is_reported(void **state)
{
    long failures = 0;
    block want;
    opened whole;

    (void)state;
    open_data(&whole, false, 0, 0, 1);
    assert_ok(take(&whole, false, 2, 1, &want));
    close_data(&whole);
    for (long n = 1;; n++) {
        csp_status status;
        long asked;
        block b;
        opened o;

        open_data(&o, false, 2, 0, 1);
        csp_fault_arm(n);
        status = csp_train_data_begin(o.data, "contrastive", 0, 3);
        for (int k = 0; k < 3 && status == CSP_OK; k++) {
            status = take(&o, false, k, 1, &b);
        }
        csp_train_data_end(o.data);
        asked = csp_fault_asked();
        csp_fault_arm(0);
        close_data(&o);
        assert_true(status == CSP_OK || (asked >= n && status == CSP_ERR_MEMORY));
        failures += status != CSP_OK;
        if (status == CSP_OK) {
            expect_block(&b, &want);
        }
        if (asked < n) {
            break;
        }
    }
    assert_true(failures > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_made_ahead_are_those_made_when_asked_for),
        cmocka_unit_test(what_was_made_ahead_and_not_used_is_not_counted),
        cmocka_unit_test(it_ends_wherever_it_is),
        cmocka_unit_test(every_failing_call_is_reported),
        /* Last: they change the corpus. */
        cmocka_unit_test(a_failure_comes_with_its_step),
        cmocka_unit_test(strict_data_is_checked_when_it_is_opened),
    };

    csp_log_set_level(CSP_LOG_NONE);
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
