/*
 * test_ranks.c - ranks on devices, which exchange tensors among themselves, give what one gives;
 * as many of them as this machine has devices.
 */
#include <dirent.h>

#include "train/ranks_case.h"
#include "train/replicas.h"
#include "train/saver.h"
#include "train/state_case.h"

#include "ranks_on_devices.h"

/* What there is time for: all steps, texts and ranks where CSPLADE_SLOW_TESTS is set. */
enum { FEW_STEPS = 3, FEW_QUERIES = 4, FEW_ROWS = 24 };

static int devices;

static void compare_sizes(const ranks_case *c, const case_way *way, int least, int most)
{
    ranks_result *one = run_on_ranks_as(c, 1, way);

    for (int size = least; size <= most && size <= devices; size *= 2) {
        ranks_result *many = run_on_ranks_as(c, size, way);

        check_same(c, many, one, size);
        if (c->lora && !c->adapt) {
            check_traffic(c, way, many, size);
        }
        munmap(many, sizeof(*many));
    }
    munmap(one, sizeof(*one));
}

static void ranks_of_devices_are_those_of_one(void **state)
{
    const bool slow = getenv("CSPLADE_SLOW_TESTS") != NULL;
    const int64_t steps = slow ? CASE_STEPS : FEW_STEPS;
    const case_way few = { .queries = FEW_QUERIES, .rows = FEW_ROWS }, all = { 0 };
    const ranks_case cases[] = {
        { "cuda", CSP_VARIANT_CAUSAL, true, false, CSP_POOLING_MAX, CSP_REG_FLOPS, steps, 1 },
        { "cuda", CSP_VARIANT_CAUSAL, false, true, CSP_POOLING_MAX, CSP_REG_FLOPS, steps, 1 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        compare_sizes(&cases[i], slow ? &all : &few, 2, slow ? 4 : 2);
    }
}

/* Two groups of two: each rank has devices joined as all, and as those that share a block. */
static void groups_of_devices_are_those_of_one(void **state)
{
    const bool slow = getenv("CSPLADE_SLOW_TESTS") != NULL;
    const case_way few = { .queries = FEW_QUERIES, .rows = FEW_ROWS }, all = { 0 };
    const ranks_case c = { "cuda",          CSP_VARIANT_CAUSAL, true,         false,
                           CSP_POOLING_MAX, CSP_REG_FLOPS,      slow ? 4 : 1, 2 };

    (void)state;
    if (devices < 4) {
        skip();
    }
    compare_sizes(&c, slow ? &all : &few, slow ? 2 : 4, 4);
}

/* What is rounded at random, and masters: a rank's part of each as on a rank with all of them. */
static void parts_of_bf16_state_give_the_same_bits(void **state)
{
    static const ranks_case c = { "cuda",          CSP_VARIANT_CAUSAL, false, true,
                                  CSP_POOLING_MAX, CSP_REG_FLOPS,      3,     1 };

    (void)state;
    if (devices < 2) {
        skip();
    }
    for (int stochastic = 0; stochastic < 2; stochastic++) {
        case_way way = { .storage = { .dtype = CSP_BF16, .stochastic = stochastic == 1, .seed = 5 },
                         .queries = FEW_QUERIES,
                         .rows = FEW_ROWS };
        ranks_result *whole = run_on_ranks_as(&c, 2, &way), *parts;

        way.shard = true;
        way.bucket_bytes = 1;
        parts = run_on_ranks_as(&c, 2, &way);
        assert_memory_equal(parts->weights, whole->weights, (size_t)whole->count * sizeof(float));
        assert_memory_equal(parts->loss, whole->loss, sizeof(whole->loss));
        assert_true(parts->state_bytes < whole->state_bytes * 11 / 20);
        munmap(whole, sizeof(*whole));
        munmap(parts, sizeof(*parts));
    }
}

/* Step k, with gradients that are known. */
static void update(const tiny *t, csp_optimizer *optimizer, csp_saver *saver, int64_t k)
{
    const csp_optim_settings settings = { .learning_rate = 0.01,
                                          .adam_epsilon = 1e-8,
                                          .adam_beta1 = 0.9,
                                          .adam_beta2 = 0.999,
                                          .max_grad_norm = 1.0 };
    const csp_tensor none = csp_tensor_none();

    for (int64_t i = 0; i < t->model->params->count; i++) {
        csp_param *row = &t->model->params->rows[i];
        const csp_rng rng = { 6, CSP_DRAW_TEST, (uint32_t)(1000 * k + i), 0 };
        static float values[CASE_WEIGHTS];

        for (int64_t j = 0; j < csp_tensor_count(&row->grad); j++) {
            values[j] = csp_rng_normal(rng, (uint64_t)j);
        }
        assert_ok(csp_backend_upload(t->be, values, &row->grad));
    }
    assert_ok(csp_saver_copied(saver));
    assert_ok(csp_optimizer_step(optimizer, &settings, k, 9, &none));
    assert_ok(csp_backend_sync(t->be));
}

/* As a phase does when rank 1 reports and the others hear of it. */
static void fail_together(const csp_ranks *ranks)
{
    csp_status status = csp_comm_barrier(ranks->comm, "the save");

    if (ranks->rank == 1) { /* the other may still be in it */
        assert_ok(status);
        status = csp_error_set(CSP_ERR_DATA, __FILE__, __LINE__, "%s", "a text is damaged");
    } else {
        assert_true(csp_comm_await_failure(ranks->comm, 60.0));
        status = csp_comm_raise(ranks->comm, CSP_COMM_FAILED, "step 2", "");
    }
    csp_ranks_abort(ranks, status);
}

static const char *const save_folders[] = { "waited", "beside", "failed" };

/*
 * As train/trainer.c does it: copies of step 1 run until the update of step 2. argument: 0 waits
 * for the file, 1 does not, 2: rank 1 fails in step 2, when the copies are under way.
 */
static int saving_rank(int argument)
{
    const char *dir = scratch_path(save_folders[argument]);
    const csp_comm_options options = { .timeout_s = 120.0 };
    const csp_save_plan plan = { .beside = argument > 0 };
    const csp_progress progress = {
        .phase = "adapt", .step = 1, .threads = 1, .precision = "bf16", .best = NAN
    };
    csp_storage storage = { .dtype = CSP_BF16 };
    csp_snapshot snapshot = {
        .tokenizer = "{}", .tokenizer_bytes = 2, .base_path = "", .base_hash = ""
    };
    csp_optimizer *optimizer;
    csp_config *config;
    csp_saver *saver;
    csp_launch launch;
    csp_ranks ranks;
    csp_comm *comm;
    char device[16];
    tiny t;

    assert_ok(csp_launch_find(&launch));
    assert_ok(csp_comm_create(&launch, &options, &comm));
    snprintf(device, sizeof(device), "cuda:%d", csp_comm_rank(comm));
    storage.sharing = (csp_sharing) { csp_comm_size(comm), csp_comm_rank(comm), 1, 0 };
    tiny_open_stored(&t, device, CSP_VARIANT_CAUSAL, false, storage);
    draw_weights(&t);
    assert_ok(csp_ranks_open(comm, t.be, &ranks));
    assert_ok(csp_config_parse("test", "model.path: m\nrun: {output_dir: o, phases: [adapt]}\n",
                               &config));
    snapshot.model = t.model;
    snapshot.contract = &t.contract;
    assert_ok(csp_optimizer_create(t.be, t.model, &ranks, &optimizer));
    assert_ok(csp_optimizer_reset(optimizer));
    assert_ok(csp_saver_create(t.model, &ranks, &plan, &saver));
    update(&t, optimizer, saver, 1);
    assert_ok(csp_values_await(t.model, t.model->params->config.L));
    assert_ok(csp_saver_save(saver, dir, &snapshot, config, &progress, NULL));
    if (argument == 2) {
        fail_together(&ranks);
    } else {
        update(&t, optimizer, saver, 2);
        assert_ok(csp_saver_wait(saver));
        assert_ok(csp_replicas_agree(&ranks, t.model)); /* of rows that one rank has whole, too */
    }
    csp_saver_destroy(saver);
    csp_optimizer_destroy(optimizer);
    csp_config_free(config);
    csp_ranks_close(&ranks);
    tiny_close(&t);
    csp_comm_destroy(comm);
    return 0;
}

static void a_checkpoint_of_parts_beside_training_has_the_same_bytes(void **state)
{
    char waited[400];
    int at[2], count = 0;
    DIR *folder;

    (void)state;
    if (devices < 2) {
        skip();
    }
    for (int way = 0; way < 3; way++) {
        assert_true(ranks_run(saving_rank, way, 2, 600.0, at));
        assert_true(at[0] == 0 && at[1] == 0);
    }
    snprintf(waited, sizeof(waited), "%s", scratch_path("waited/checkpoints"));
    folder = opendir(waited);
    assert_non_null(folder);
    for (struct dirent *e = readdir(folder); e != NULL; e = readdir(folder)) {
        char path[700];
        char *bytes[3];
        size_t size[3];

        if (e->d_name[0] == '.') {
            continue;
        }
        for (int way = 0; way < 3; way++) {
            snprintf(path, sizeof(path), "%s/checkpoints/%s", scratch_path(save_folders[way]),
                     e->d_name);
            bytes[way] = scratch_read(path, &size[way]);
            assert_int_equal(size[way], size[0]);
            assert_memory_equal(bytes[way], bytes[0], size[0]);
        }
        for (int way = 0; way < 3; way++) {
            free(bytes[way]);
        }
        count++;
    }
    closedir(folder);
    assert_int_equal(count, 4); /* LATEST, the model, two parts of its state */
}

/*
 * Files of bf16 state in another number of parts, whole, and in f32, whose values are masters. The
 * last test, because it opens a device in this process, which is not to be forked then.
 */
static void masters_come_back_from_state_files(void **state)
{
    const csp_storage f32 = { 0 }, bf16 = { .dtype = CSP_BF16 };
    const csp_storage stochastic = { .dtype = CSP_BF16, .stochastic = true };
    csp_state_files files;

    (void)state;
    state_write("cuda:0", bf16, 2, &files);
    state_read_as("cuda:0", bf16, 1, &files, true);
    state_read_as("cuda:0", bf16, 3, &files, true);
    state_read_as("cuda:0", f32, 2, &files, true);
    state_read_as("cpu", f32, 1, &files, true);
    state_read_as("cuda:0", stochastic, 2, &files, false);
    csp_state_files_clear(&files);
    state_write("cuda:0", stochastic, 2, &files);
    state_read_as("cuda:0", bf16, 1, &files, false);
    csp_state_files_clear(&files);
}

int main(void)
{
    const struct CMUnitTest all[] = { cmocka_unit_test(ranks_of_devices_are_those_of_one),
                                      cmocka_unit_test(groups_of_devices_are_those_of_one),
                                      cmocka_unit_test(parts_of_bf16_state_give_the_same_bits),
                                      cmocka_unit_test(
                                          a_checkpoint_of_parts_beside_training_has_the_same_bytes),
                                      cmocka_unit_test(masters_come_back_from_state_files) };
    /* What there is time for under the thread sanitizer. */
    const struct CMUnitTest few[] = {
        cmocka_unit_test(groups_of_devices_are_those_of_one),
        cmocka_unit_test(a_checkpoint_of_parts_beside_training_has_the_same_bytes)
    };
#if defined(__SANITIZE_THREAD__)
    const bool has_time = false;
#else
    const bool has_time = true;
#endif

    devices = device_count(4);
    if (devices == 0) {
        print_error("skipped: no device, or no NCCL\n");
        return NO_DEVICE;
    }
    return has_time ? cmocka_run_group_tests(all, scratch_make, scratch_remove)
                    : cmocka_run_group_tests(few, scratch_make, scratch_remove);
}
