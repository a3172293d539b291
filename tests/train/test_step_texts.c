/*
 * test_step_texts.c - blocks of negatives: the texts of a step are those that were drawn, on any
 * number of ranks, and its queries are dealt out into blocks that are about as long.
 */
#include "io/scratch.h"
#include "support/compare.h"

#include "core/rng.h"
#include "data/pairs.h"
#include "io/file.h"
#include "train/train_data.h"

enum { EXAMPLES = 96, QUERIES = 16, GROUP = 3, BLOCKS = 4, STEPS = 12 };

/* A token for every character. */
static const char tokenizer_text[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],"
    "\"normalizer\":null,\"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":null,"
    "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"0\":0,\"1\":1,\"2\":2,\"3\":3,\"4\":4,"
    "\"5\":5,\"6\":6,\"7\":7,\"8\":8,\"9\":9,\"a\":10}}}";

static const char settings[] =
    "model: {path: m, query_max_len: 90, passage_max_len: 900, query_prefix: '', "
    "passage_prefix: ''}\n"
    "data: {corpus: %s/beir, qrels: %s/beir/qrels/train.tsv, train_group_size: 3}\n"
    "contrastive: {max_steps: 20, negative_blocks: %d, batch: {queries: 16}}\n"
    "run: {output_dir: o, phases: [contrastive]}\n";

static csp_tokenizer *tokenizer;
static csp_contract contract;

/* Texts that begin with their number in four digits; a fifth of documents is most of the length. */
static int make_files(void **state)
{
    static char filler[1024];
    const csp_rng rng = { 3, CSP_DRAW_TEST, 0, 0 };
    FILE *corpus, *queries, *qrels;

    memset(filler, 'a', sizeof(filler) - 1);
    assert_int_equal(scratch_make(state), 0);
    assert_ok(csp_file_make_dirs(scratch_path("beir/qrels")));
    corpus = fopen(scratch_path("beir/corpus.jsonl"), "w");
    queries = fopen(scratch_path("beir/queries.jsonl"), "w");
    qrels = fopen(scratch_path("beir/qrels/train.tsv"), "w");
    for (int i = 0; i < EXAMPLES; i++) {
        const int most = i % 5 == 0 ? 800 : 100;

        fprintf(corpus, "{\"_id\":\"d%d\",\"text\":\"%04d%.*s\"}\n", i, i,
                (int)csp_rng_below(rng, (uint64_t)i, (uint64_t)most), filler);
        fprintf(queries, "{\"_id\":\"q%d\",\"text\":\"%04d%.*s\"}\n", i, i, i % 50, filler);
        fprintf(qrels, "q%d 0 d%d 1\n", i, i);
    }
    assert_int_equal(fclose(corpus) + fclose(queries) + fclose(qrels), 0);
    assert_ok(
        csp_tokenizer_from_text(tokenizer_text, sizeof(tokenizer_text) - 1, "test", &tokenizer));
    assert_ok(csp_contract_init(&contract));
    contract.query_max_len = 90;
    contract.passage_max_len = 900;
    contract.bos_id = contract.eos_id = -1;
    return 0;
}

static int remove_files(void **state)
{
    csp_tokenizer_close(tokenizer);
    csp_contract_clear(&contract);
    return scratch_remove(state);
}

/* A step over all ranks: which text has which number, and how long it is. */
typedef struct whole_step {
    int query[QUERIES], document[QUERIES * GROUP];
    int64_t tokens[QUERIES]; /* of a query and its documents */
} whole_step;

/* The block of each query of each step, as this test finds it. */
static int block_of[STEPS][QUERIES];

/* Text i of a list: the number it begins with. */
static int text_of(const csp_token_lists *lists, int64_t i, int64_t *tokens)
{
    const int32_t *ids = csp_token_lists_get(lists, i, tokens);

    assert_true(*tokens >= 4);
    return 1000 * ids[0] + 100 * ids[1] + 10 * ids[2] + ids[3];
}

/* Puts this rank's texts to their numbers in the step, each of which is nobody else's. */
static void add_rank(const csp_contrastive_texts *t, whole_step *s)
{
    int64_t tokens;

    for (int64_t i = 0; i < t->queries->count; i++) {
        const int64_t number = t->query_text[i];

        assert_true(number >= 0 && number < QUERIES && s->query[number] < 0);
        s->query[number] = text_of(t->queries, i, &tokens);
        s->tokens[number] += tokens;
    }
    for (int64_t i = 0; i < t->passages->count; i++) {
        const int64_t number = t->passage_text[i];

        assert_true(number >= 0 && number < QUERIES * GROUP && s->document[number] < 0);
        s->document[number] = text_of(t->passages, i, &tokens);
        s->tokens[number / GROUP] += tokens;
    }
}

/* Texts are of the blocks that this rank's group has. */
static void check_blocks(const csp_contrastive_texts *t, const int *block, int ranks, int rank)
{
    for (int64_t i = 0; i < t->queries->count; i++) {
        assert_int_equal(block[t->query_text[i]] * ranks / BLOCKS,
                         ranks > BLOCKS ? rank / (ranks / BLOCKS) * (ranks / BLOCKS) : rank);
    }
    for (int64_t i = 0; i < t->passages->count; i++) {
        assert_int_equal(block[t->passage_text[i] / GROUP] * ranks / BLOCKS,
                         ranks > BLOCKS ? rank / (ranks / BLOCKS) * (ranks / BLOCKS) : rank);
    }
}

/* Of a rank with whole blocks: all pairs of different ones are left out, and no others so. */
static void check_mask(const csp_contrastive_texts *t, const int *block)
{
    for (int64_t q = 0; q < t->queries->count; q++) {
        for (int64_t p = 0; p < t->passages->count; p++) {
            const bool same = block[t->query_text[q]] == block[t->passage_text[p] / GROUP];
            const uint8_t why = t->mask != NULL ? t->mask[q * t->passages->count + p] : 0;

            assert_int_equal(why == CSP_LEFT_OUT_BLOCK, !same);
        }
        assert_int_equal(t->passage_text[t->positive[q]], t->query_text[q] * GROUP);
    }
}

static void parse(int blocks, csp_config **out)
{
    char text[2048];

    snprintf(text, sizeof(text), settings, scratch_dir, scratch_dir, blocks);
    assert_ok(csp_config_parse("test", text, out));
}

/* Every step on so many ranks. */
static void load(int blocks, int ranks, whole_step *steps)
{
    csp_config *config;

    parse(blocks, &config);
    for (int k = 0; k < STEPS; k++) {
        steps[k] = (whole_step) { 0 };
        memset(steps[k].query, -1, sizeof(steps[k].query));
        memset(steps[k].document, -1, sizeof(steps[k].document));
    }
    for (int rank = 0; rank < ranks; rank++) {
        csp_train_data *data;

        assert_ok(csp_train_data_open(config, &contract, tokenizer, rank, ranks, NULL, &data));
        for (int k = 0; k < STEPS; k++) {
            csp_contrastive_texts t;

            assert_ok(csp_train_data_pairs(data, k, &t));
            add_rank(&t, &steps[k]);
            if (blocks > 1) {
                check_blocks(&t, block_of[k], ranks, rank);
            }
            if (blocks > 1 && ranks <= BLOCKS) {
                check_mask(&t, block_of[k]);
            }
        }
        csp_train_data_close(data);
    }
    csp_config_free(config);
}

/* Bytes of a text that counts up to max_len tokens (0: nobody knows), and what it costs beside. */
static int64_t cost(int64_t bytes, int64_t max_len)
{
    return 16 + (bytes > 0 && bytes < 4 * max_len ? bytes : 4 * max_len);
}

/* The block of each query of a step: the longest goes to the block that has least and has room. */
static void deal(csp_pairs *pairs, const csp_draw_list *drawn, int *block)
{
    int64_t size[QUERIES], sum[BLOCKS] = { 0 };
    int count[BLOCKS] = { 0 };

    for (int q = 0; q < QUERIES; q++) {
        block[q] = -1;
        size[q] = cost(csp_pairs_query_bytes(pairs, drawn->example[q]), 90);
        for (int g = 0; g < GROUP; g++) {
            size[q] += cost(csp_pairs_document_bytes(pairs, drawn->document[q * GROUP + g]), 900);
        }
    }
    for (int i = 0; i < QUERIES; i++) {
        int longest = -1, least = -1;

        for (int q = 0; q < QUERIES; q++) {
            longest = block[q] < 0 && (longest < 0 || size[q] > size[longest]) ? q : longest;
        }
        for (int b = 0; b < BLOCKS; b++) {
            least = count[b] < QUERIES / BLOCKS && (least < 0 || sum[b] < sum[least]) ? b : least;
        }
        block[longest] = least;
        sum[least] += size[longest];
        count[least]++;
    }
}

static void find_blocks(void)
{
    csp_draw_list drawn = { 0 };
    csp_pairs_source source;
    csp_config *config;
    csp_pairs *pairs;

    parse(BLOCKS, &config);
    source = (csp_pairs_source) { .corpus = config->data.corpus, .qrels = config->data.qrels };
    assert_ok(csp_pairs_open(&source, &pairs));
    for (int k = 0; k < STEPS; k++) {
        const csp_sampling sampling = { .seed = (uint64_t)config->run.seed,
                                        .Q = QUERIES,
                                        .G = GROUP };

        assert_ok(csp_pairs_draw(pairs, &sampling, k, 0, QUERIES, &drawn));
        deal(pairs, &drawn, block_of[k]);
    }
    csp_draw_list_clear(&drawn);
    csp_pairs_close(pairs);
    csp_config_free(config);
}

/* On any number of ranks the step of one block, numbered alike; only who has what differs. */
static void a_step_of_blocks_is_the_step_that_was_drawn(void **state)
{
    static whole_step want[STEPS], got[STEPS];

    (void)state;
    find_blocks();
    load(1, 1, want);
    for (int ranks = 1; ranks <= 8; ranks *= 2) {
        load(BLOCKS, ranks, got);
        assert_memory_equal(got, want, sizeof(want));
    }
}

/* By how much the longest of the blocks is above their mean. */
static double excess(const whole_step *s, const int *block)
{
    double sum[BLOCKS] = { 0.0 }, most = 0.0, all = 0.0;

    for (int q = 0; q < QUERIES; q++) {
        sum[block[q]] += (double)s->tokens[q];
    }
    for (int b = 0; b < BLOCKS; b++) {
        most = fmax(most, sum[b]);
        all += sum[b];
    }
    return most / (all / BLOCKS) - 1.0;
}

static void blocks_are_about_as_long_as_one_another(void **state)
{
    static whole_step steps[STEPS];
    int stretch[QUERIES];
    double before = 0.0, after = 0.0;

    (void)state;
    for (int q = 0; q < QUERIES; q++) {
        stretch[q] = q / (QUERIES / BLOCKS);
    }
    find_blocks();
    load(1, 1, steps);
    for (int k = 0; k < STEPS; k++) {
        before += excess(&steps[k], stretch) / STEPS;
        after += excess(&steps[k], block_of[k]) / STEPS;
    }
    print_message("the longest block is %.1f %% above the mean as drawn, %.1f %% as dealt\n",
                  100.0 * before, 100.0 * after);
    assert_true(after < before / 2.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_of_blocks_is_the_step_that_was_drawn),
        cmocka_unit_test(blocks_are_about_as_long_as_one_another),
    };

    return cmocka_run_group_tests(tests, make_files, remove_files);
}
