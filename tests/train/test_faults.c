/*
 * test_faults.c - whole checkpoints and a whole tiny run with each fallible call failing once: what
 * was saved stays, nothing half-written has a final name, and the run goes on to the same bytes.
 * Leaks are the address sanitizer's business.
 */
#include "train/tiny.h"

#include "core/log.h"
#include "io/file.h"
#include "model/weights.h"
#include "train/checkpoint.h"
#include "train/trainer.h"

/* As in tests/data/scratch.h: a token for every character, ids below TINY_V. */
static const char tokenizer[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],"
    "\"normalizer\":null,\"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":null,"
    "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"e\":4,"
    "\" \":5,\":\":6,\"q\":7,\"u\":8,\"r\":9,\"y\":10,\"p\":11,\"s\":12,\"g\":13}}}";

static const char settings[] =
    "model: {path: %s/model, query_max_len: 6, passage_max_len: 6, query_prefix: '', "
    "passage_prefix: ''}\n"
    "data: {corpus: %s/beir, qrels: %s/beir/qrels/train.tsv, train_group_size: 2, "
    "dev_qrels: %s/beir/qrels/train.tsv}\n"
    "adapt: {max_steps: 1, max_len: 6, batch: {texts: 2, micro_batch_tokens: 16}}\n"
    "contrastive: {max_steps: 1, batch: {queries: 2, micro_batch_tokens: 16}}\n"
    "%s"
    "run: {output_dir: %s/run, phases: [%s], save_total_limit: 1, eval_steps: 1}\n"
    "device: {name: cpu, threads: 1}\n";

/* How a run is configured beside the settings above, and which of its calls fail, in turn. */
typedef struct kind {
    const char *more, *phases, *last;
    long first, stride;
} kind;

/* Every so many failures the run is also gone on with: always would take twice as long. */
enum { GO_ON = 32 };

static void make_files(void)
{
    const csp_weights_write_options options = { .dtype = CSP_F32 };
    char *config;
    tiny t;

    assert_ok(csp_file_make_dirs(scratch_path("model")));
    assert_ok(csp_file_make_dirs(scratch_path("beir/qrels")));
    tiny_open(&t, CSP_VARIANT_CAUSAL, false);
    assert_ok(csp_weights_write(t.be, t.model->params, scratch_path("model"), &options));
    assert_ok(csp_model_config_text(&t.model->params->config, CSP_F32, &config));
    scratch_text(scratch_path("model/config.json"), config);
    scratch_text(scratch_path("model/tokenizer.json"), tokenizer);
    free(config);
    tiny_close(&t);
    scratch_text(scratch_path("beir/corpus.jsonl"),
                 "{\"_id\":\"d0\",\"text\":\"ab ba\"}\n{\"_id\":\"d1\",\"text\":\"cd dc\"}\n"
                 "{\"_id\":\"d2\",\"text\":\"ee\"}\n");
    scratch_text(scratch_path("beir/queries.jsonl"),
                 "{\"_id\":\"q0\",\"text\":\"bab\"}\n{\"_id\":\"q1\",\"text\":\"ddc\"}\n");
    scratch_text(scratch_path("beir/qrels/train.tsv"), "q0 0 d0 1\nq1 0 d1 1\n");
}

static void remove_run(void)
{
    if (access(scratch_path("run"), F_OK) == 0) {
        assert_int_equal(nftw(scratch_path("run"), scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS),
                         0);
    }
}

static csp_config *make_config(const kind *k)
{
    char text[2048];
    csp_config *config;

    snprintf(text, sizeof(text), settings, scratch_dir, scratch_dir, scratch_dir, scratch_dir,
             k->more, scratch_dir, k->phases);
    assert_ok(csp_config_parse("test", text, &config));
    return config;
}

static csp_status train(const csp_config *config)
{
    volatile sig_atomic_t stop = 0, save = 0;
    const csp_train_options options = { .matmul_gflop_per_s = 1.0, .stop = &stop, .save = &save };
    csp_train_result result;

    return csp_train(config, &options, &result);
}

/* Every checkpoint that has a name is whole, LATEST names one, and no temporary is left. */
static void what_is_there_is_whole(void)
{
    csp_resume_point latest;
    char *name;
    DIR *dir = opendir(scratch_path("run/checkpoints"));
    size_t bytes;

    if (dir == NULL) {
        return;
    }
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char path[200];
        csp_hdf5 *file;

        assert_null(strstr(entry->d_name, ".tmp"));
        if (strstr(entry->d_name, ".h5") != NULL) {
            snprintf(path, sizeof(path), "run/checkpoints/%.64s", entry->d_name);
            assert_ok(csp_hdf5_open(scratch_path(path), &file));
            csp_hdf5_close(file);
        }
    }
    closedir(dir);
    assert_int_equal(scratch_count(scratch_path("run"), ".tmp"), 0);
    if (access(scratch_path("run/checkpoints/LATEST"), F_OK) == 0) {
        name = scratch_read(scratch_path("run/checkpoints/LATEST"), &bytes);
        assert_ok(csp_resume_point_find(scratch_path("run"), NULL, &latest));
        assert_non_null(strstr(latest.path, name));
        csp_resume_point_clear(&latest);
        free(name);
    }
}

static void the_last_checkpoint_is(const kind *k, const char *want, size_t count)
{
    char path[200];
    char *got;
    size_t bytes;

    snprintf(path, sizeof(path), "run/checkpoints/%.64s", k->last);
    got = scratch_read(scratch_path(path), &bytes);
    assert_int_equal(bytes, count);
    assert_memory_equal(got, want, count);
    free(got);
}

/*
 * A fault may be swallowed where a file that stays is only a warning; then the run is as good as
 * any. In all other cases it ends with a message, and the same command ends it.
 */
static void walk_run(const kind *k)
{
    csp_config *config = make_config(k);
    char path[200];
    char *want;
    size_t count;
    long failures = 0, asked;

    remove_run();
    assert_ok(train(config));
    snprintf(path, sizeof(path), "run/checkpoints/%.64s", k->last);
    want = scratch_read(scratch_path(path), &count);
    for (long n = k->first;; n += k->stride) {
        csp_status status;

        remove_run();
        (void)csp_error_set(CSP_ERR_ARGUMENT, __FILE__, __LINE__, "%s", "");
        csp_fault_arm(n);
        status = train(config);
        asked = csp_fault_asked();
        csp_fault_arm(0);
        assert_true(status == CSP_OK || csp_error_text()[0] != '\0');
        what_is_there_is_whole();
        if (asked < n) {
            break;
        }
        if (status != CSP_OK && ++failures % GO_ON == 0) {
            assert_ok(train(config));
            status = CSP_OK;
        }
        if (status == CSP_OK) {
            the_last_checkpoint_is(k, want, count);
        }
    }
    assert_true(failures * k->stride > 500);
    free(want);
    csp_config_free(config);
    remove_run();
}

static void every_failing_call_of_a_run_leaves_what_goes_on_to_the_same_bytes(void **state)
{
    (void)state;
    /* Many calls of the second are those of the first: every third, to take seconds. */
    walk_run(&(kind) { "", "adapt", "adapt-00000001.h5", 1, 1 });
    walk_run(&(kind) { "lora: {r: 2}\n", "contrastive", "contrastive-00000001.h5", 2, 3 });
}

static void so_it_does_with_an_adapter_merged_between_the_phases(void **state)
{
    (void)state;
    /* Most of its calls are those of the runs above: a part of them, other ones near each other. */
    walk_run(&(kind) { "lora: {r: 2, between_phases: merge}\n", "adapt, contrastive",
                       "contrastive-00000001.h5", 3, 37 });
}

/* A checkpoint beside an earlier one, and what opens it. */
typedef struct written {
    tiny *t;
    csp_config *config;
    csp_progress progress;
    csp_health_memory health;
} written;

static csp_status write_next(void *context)
{
    written *w = context;
    const csp_snapshot snapshot = { .model = w->t->model,
                                    .contract = &w->t->contract,
                                    .tokenizer = tokenizer,
                                    .tokenizer_bytes = sizeof(tokenizer) - 1,
                                    .base_path = "base",
                                    .base_hash = "0" };

    return csp_checkpoint_write(scratch_path("run"), &snapshot, w->config, &w->progress, &w->health,
                                NULL, NULL, NULL);
}

static void the_earlier_one_is_latest_or_the_new_one_is_whole(void *context)
{
    (void)context;
    what_is_there_is_whole();
    assert_int_equal(access(scratch_path("run/checkpoints/LATEST"), F_OK), 0);
}

static csp_status read_back(void *context)
{
    const written *w = context;
    csp_progress progress;
    csp_config *config = NULL;
    csp_health_memory health = { 0 };
    csp_resume_point point = { 0 };
    csp_status status;

    CSP_TRY_GOTO(csp_resume_point_find(scratch_path("run"), NULL, &point));
    CSP_TRY_GOTO(csp_checkpoint_peek(point.file, point.path, &progress, &config));
    status = csp_checkpoint_read_state(&point, NULL, w->t->model, &health);

fail:
    csp_health_memory_clear(&health);
    csp_config_free(config);
    csp_resume_point_clear(&point);
    return status;
}

static void every_failing_call_of_a_checkpoint_leaves_the_earlier_one(void **state)
{
    const kind k = { "lora: {r: 3}\n", "adapt, contrastive", NULL, 0, 0 };
    tiny t;
    written w = { .t = &t, .config = make_config(&k) };

    (void)state;
    tiny_open(&t, CSP_VARIANT_CAUSAL, true);
    assert_ok(csp_health_memory_init(&w.health, TINY_V));
    w.progress = (csp_progress) { .phase_index = 1,
                                  .phase = "contrastive",
                                  .step = 1,
                                  .threads = 1,
                                  .micro_batch_tokens = 16,
                                  .metric = "nDCG@10",
                                  .best = NAN };
    remove_run();
    assert_ok(write_next(&w));
    assert_true(walk_faults(read_back, NULL, &w) > 30);
    w.progress.step = 2;
    assert_true(walk_faults(write_next, the_earlier_one_is_latest_or_the_new_one_is_whole, &w) >
                100);
    csp_health_memory_clear(&w.health);
    csp_config_free(w.config);
    tiny_close(&t);
}

static int begin(void **state)
{
    csp_log_set_level(CSP_LOG_NONE); /* warnings are expected here */
    if (scratch_make(state) != 0) {
        return -1;
    }
    make_files();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_failing_call_of_a_checkpoint_leaves_the_earlier_one),
        cmocka_unit_test(every_failing_call_of_a_run_leaves_what_goes_on_to_the_same_bytes),
        cmocka_unit_test(so_it_does_with_an_adapter_merged_between_the_phases),
    };

    return cmocka_run_group_tests(tests, begin, scratch_remove);
}
