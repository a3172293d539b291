/*
 * test_saver.c - checkpoints that a thread writes: the bytes of those that training waits for,
 * whatever training does meanwhile, also of ranks that share state out; failures in the same words;
 * and who gets the memory.
 */
#include <dirent.h>

#include "train/saved_case.h"

#include "core/log.h"
#include "core/machine.h"
#include "io/hdf5_lock.h"
#include "train/saver.h"

static csp_saver *make_saver_of(const saved *s, const csp_ranks *ranks, bool beside)
{
    const csp_save_plan plan = { .beside = beside };
    csp_saver *saver;

    assert_ok(csp_saver_create(s->t.model, ranks, &plan, &saver));
    return saver;
}

static csp_saver *make_saver(const saved *s, bool beside)
{
    return make_saver_of(s, NULL, beside);
}

static csp_status save(csp_saver *saver, const saved *s, const char *dir)
{
    return csp_saver_save(saver, dir, &s->snapshot, s->config, &s->progress, &s->health);
}

/* Steps follow each other as fast as they can: the next save meets the thread at its work. */
static void what_training_does_meanwhile_changes_nothing(void **state)
{
    (void)state;
    for (int lora = 0; lora < 2; lora++) {
        char waited[600], beside[600];
        csp_saver *saver;
        saved s = { 0 };

        folder(lora ? "waited-lora" : "waited", waited);
        folder(lora ? "beside-lora" : "beside", beside);
        open_saved(&s, lora);
        s.config->run.save_total_limit = 9;
        for (int64_t k = 1; k <= 6; k++) {
            train_to(&s, k);
            assert_ok(csp_checkpoint_write(waited, &s.snapshot, s.config, &s.progress,
                                           k == 4 ? NULL : &s.health, NULL, NULL, NULL));
        }
        saver = make_saver(&s, true);
        for (int64_t k = 1; k <= 6; k++) {
            bool writes = true;

            train_to(&s, k);
            assert_ok(csp_saver_save(saver, beside, &s.snapshot, s.config, &s.progress,
                                     k == 4 ? NULL : &s.health));
            assert_ok(csp_saver_copied(saver));
            train_to(&s, 100 + k);
            assert_ok(csp_saver_poll(saver, &writes));
            csp_saver_learn(saver, writes);
        }
        assert_ok(csp_saver_wait(saver));
        expect_same(waited, beside, "checkpoints/LATEST");
        for (int64_t k = 1; k <= 6; k++) {
            expect_same(waited, beside, name_of(k));
        }
        csp_saver_destroy(saver);
        close_saved(&s);
    }
}

static void a_saver_without_a_copy_gives_the_same(void **state)
{
    char waited[600], plain[600];
    double pause_s = NAN, write_s = NAN;
    bool writes = true;
    csp_saver *saver;
    saved s = { 0 };

    (void)state;
    folder("waited", waited);
    folder("plain", plain);
    open_saved(&s, false);
    saver = make_saver(&s, false);
    train_to(&s, 6);
    assert_ok(save(saver, &s, plain));
    expect_same(waited, plain, name_of(6)); /* nothing is left to wait for */
    csp_saver_times(saver, &pause_s, &write_s);
    assert_true(write_s > 0.0 && pause_s >= write_s);
    csp_saver_times(saver, &pause_s, &write_s);
    assert_true(isnan(write_s));
    csp_saver_destroy(saver);
    csp_saver_times(NULL, &pause_s, &write_s);
    assert_ok(csp_saver_poll(NULL, &writes));
    assert_false(writes);
    csp_saver_learn(NULL, writes);
    assert_ok(csp_saver_copied(NULL));
    assert_ok(csp_saver_wait(NULL));
    csp_saver_destroy(NULL);
    close_saved(&s);
}

/* Where the folder of checkpoints is a file, by each of the calls that say so; each once. */
static void a_failure_is_said_in_the_same_words_by_the_next_call(void **state)
{
    char dir[600], want[600];
    csp_saver *saver;
    saved s = { 0 };

    (void)state;
    folder("broken", dir);
    scratch_text(scratch_path("broken/checkpoints"), "a file");
    open_saved(&s, false);
    train_to(&s, 1);
    assert_int_equal(
        csp_checkpoint_write(dir, &s.snapshot, s.config, &s.progress, NULL, NULL, NULL, NULL),
        CSP_ERR_IO);
    snprintf(want, sizeof(want), "%s", csp_error_text());
    assert_non_null(strstr(want, "exists and is not a folder"));
    saver = make_saver(&s, true);
    for (int way = 0; way < 3; way++) {
        csp_status status = CSP_OK;
        bool writes;

        assert_ok(save(saver, &s, dir));
        (void)csp_error_set(CSP_ERR_DATA, __FILE__, __LINE__, "%s", "");
        if (way == 0) {
            status = csp_saver_wait(saver);
        } else if (way == 1) {
            status = save(saver, &s, dir);
        }
        for (int i = 0; way == 2 && i < 20000 && status == CSP_OK; i++) {
            usleep(1000);
            status = csp_saver_poll(saver, &writes);
        }
        assert_int_equal(status, CSP_ERR_IO);
        assert_string_equal(csp_error_text(), want);
        assert_ok(csp_saver_wait(saver));
    }
    /* What goes on after a failure is whole; the last failure of all is a warning. */
    assert_int_equal(unlink(scratch_path("broken/checkpoints")), 0);
    assert_ok(save(saver, &s, dir));
    assert_ok(csp_saver_wait(saver));
    s.progress.step = 2;
    assert_ok(save(saver, &s, "/dev/null/x"));
    csp_saver_destroy(saver);
    assert_int_equal(access(scratch_path("broken/checkpoints/contrastive-00000001.h5"), F_OK), 0);
    close_saved(&s);
}

/* Each fallible call of a save and of its thread fails once: no leak, and the next one is whole. */
static csp_status save_and_wait(void *context)
{
    const saved *s = context;
    const csp_save_plan plan = { .beside = true };
    csp_saver *saver;
    csp_status status;

    CSP_TRY(csp_saver_create(s->t.model, NULL, &plan, &saver));
    CSP_TRY_GOTO(save(saver, s, scratch_path("faults")));
    status = csp_saver_wait(saver);

fail:
    csp_saver_destroy(saver);
    return status;
}

static void every_failing_call_is_reported(void **state)
{
    saved s = { 0 };

    (void)state;
    assert_ok(csp_file_make_dirs(scratch_path("faults")));
    open_saved(&s, true);
    train_to(&s, 1);
    for (long n = 1;; n++) {
        csp_status status;
        long asked;

        csp_fault_arm(n);
        status = save_and_wait(&s);
        asked = csp_fault_asked();
        csp_fault_arm(0);
        if (asked < n) {
            assert_ok(status);
            break;
        }
        /* Only what a pruned checkpoint leaves may be swallowed, and nothing is pruned here. */
        assert_int_not_equal(status, CSP_OK);
        assert_int_equal(scratch_count(scratch_path("faults"), ".tmp"), 0);
    }
    close_saved(&s);
}

/* The end of a step: whether any rank still writes. */
static csp_status step_end(csp_saver *saver, const csp_ranks *ranks, bool *writes)
{
    int32_t any;

    CSP_TRY(csp_saver_poll(saver, writes));
    any = *writes;
    CSP_TRY(csp_ranks_reduce_host(ranks, &any, CSP_I32, 1, CSP_COMM_MAX, "test"));
    *writes = any != 0;
    csp_saver_learn(saver, *writes);
    return CSP_OK;
}

/* Until all ranks know that the checkpoint is there. */
static void await_checkpoint(csp_saver *saver, const csp_ranks *ranks)
{
    bool writes = true;

    while (writes) {
        assert_ok(step_end(saver, ranks, &writes));
        usleep(1000);
    }
}

enum { SAVES = 6, SHARERS = 3 };

/* Every other save is met by the next one before anybody has asked. argument: beside. */
static int saving_rank(int argument)
{
    const char *dir = scratch_path(argument ? "beside-shared" : "now-shared");
    member m = { 0 };
    csp_saver *saver;

    join_ranks(&m);
    saver = make_saver_of(&m.s, &m.ranks, argument);
    for (int64_t k = 1; k <= SAVES; k++) {
        train_to(&m.s, k);
        assert_ok(save(saver, &m.s, dir));
        assert_ok(csp_saver_copied(saver));
        train_to(&m.s, 100 + k);
        if (k % 2 == 0) {
            await_checkpoint(saver, &m.ranks);
        }
    }
    assert_ok(csp_saver_wait(saver));
    csp_saver_destroy(saver);
    return leave_ranks(&m);
}

static void run_ranks(ranks_body body, int argument)
{
    int at[SHARERS];

    assert_true(ranks_run(body, argument, SHARERS, 600.0, at));
    for (int r = 0; r < SHARERS; r++) {
        assert_int_equal(at[r], 0);
    }
}

static void state_that_ranks_share_out_is_written_beside_training_too(void **state)
{
    char now[600], beside[600], name[400];
    DIR *folder_now;
    int count = 0;

    (void)state;
    folder("now-shared", now);
    folder("beside-shared", beside);
    run_ranks(saving_rank, 0);
    run_ranks(saving_rank, 1);
    folder_now = opendir(scratch_path("now-shared/checkpoints"));
    assert_non_null(folder_now);
    for (struct dirent *e = readdir(folder_now); e != NULL; e = readdir(folder_now)) {
        if (e->d_name[0] != '.') {
            snprintf(name, sizeof(name), "checkpoints/%s", e->d_name);
            expect_same(now, beside, name);
            count++;
        }
    }
    closedir(folder_now);
    assert_int_equal(count, 1 + SAVES * (1 + SHARERS)); /* LATEST, and what it may name */
    assert_int_equal(scratch_count(scratch_path("beside-shared/checkpoints"), "-"),
                     SAVES * (1 + SHARERS));
}

/* The second rank's folder is a file. What it says is what ends the others. argument: beside. */
static int failing_rank(int argument)
{
    member m = { 0 };
    csp_saver *saver;
    csp_status status;
    bool writes;

    join_ranks(&m);
    saver = make_saver_of(&m.s, &m.ranks, argument);
    train_to(&m.s, 1);
    status = save(saver, &m.s, scratch_path(m.ranks.rank == 1 ? "broken-rank" : "fine-ranks"));
    for (int i = 0; i < 20000 && m.ranks.rank == 1 && status == CSP_OK; i++) {
        usleep(1000);
        status = csp_saver_poll(saver, &writes);
    }
    status = status == CSP_OK ? csp_saver_wait(saver) : status;
    assert_int_equal(status, m.ranks.rank == 1 ? CSP_ERR_IO : CSP_ERR_COMM);
    assert_error_has("exists and is not a folder");
    if (m.ranks.rank == 1) {
        csp_ranks_abort(&m.ranks, status);
    }
    csp_saver_destroy(saver);
    assert_error_has("exists and is not a folder"); /* it is said by the caller yet */
    return leave_ranks(&m);
}

static void a_rank_that_cannot_write_its_state_ends_all(void **state)
{
    char dir[600];

    (void)state;
    folder("broken-rank", dir);
    scratch_text(scratch_path("broken-rank/checkpoints"), "a file");
    folder("fine-ranks", dir);
    for (int beside = 0; beside < 2; beside++) {
        run_ranks(failing_rank, beside);
        assert_int_equal(scratch_count(scratch_path("fine-ranks/checkpoints"), ".h5"), 0);
        assert_int_equal(scratch_count(scratch_path("fine-ranks/checkpoints"), ".tmp"), 0);
        assert_int_equal(scratch_count(scratch_path("fine-ranks/checkpoints"), "LATEST"), 0);
    }
}

/* Whatever has failed meanwhile is still to be said; what is under way ends by itself. */
static int leaving_rank(int argument)
{
    member m = { 0 };
    csp_saver *saver;

    (void)argument;
    join_ranks(&m);
    saver = make_saver_of(&m.s, &m.ranks, true);
    train_to(&m.s, 1);
    assert_ok(save(saver, &m.s, scratch_path("left")));
    (void)csp_error_set(CSP_ERR_DATA, __FILE__, __LINE__, "%s", "what has failed meanwhile");
    csp_saver_destroy(saver);
    assert_error_has("what has failed meanwhile");
    return leave_ranks(&m);
}

static void a_checkpoint_that_ranks_leave_is_finished(void **state)
{
    char dir[600], want[600];

    (void)state;
    folder("left", dir);
    folder("now-shared", want);
    run_ranks(leaving_rank, 0);
    expect_same(want, dir, name_of(1));
    assert_int_equal(scratch_count(scratch_path("left/checkpoints"), ".state"), SHARERS);
    assert_int_equal(scratch_count(scratch_path("left/checkpoints"), ".tmp"), 0);
}

/* Two have no memory, then none has too little. */
static int planning_rank(int argument)
{
    member m = { 0 };

    (void)argument;
    join_ranks(&m);
    for (int scarce = 1; scarce >= 0; scarce--) {
        const int rank = m.ranks.rank;
        csp_save_plan plan = {
            .beside = scarce == 0 || rank == 0, .bytes = 10 + rank, .most = 7, .rank = rank
        };

        assert_ok(csp_save_plan_agree(&m.ranks, &plan));
        assert_true(plan.beside == (scarce == 0) && plan.rank == scarce &&
                    plan.bytes == 10 + scarce && plan.most == 7);
    }
    return leave_ranks(&m);
}

/* What becomes of the rank that is slow to write, or else: rank 0 fails; it writes all alone. */
typedef enum slow_end { SLOW_FINE, SLOW_KILLED, SLOW_HANGS, SLOW_ZERO, SLOW_ALONE } slow_end;

static const char *const unequal_folders[] = { "unequal-fine", "unequal-killed", "unequal-hangs",
                                               "unequal-zero", "unequal-alone" };

/*
 * A rank fails just after a save, of which nobody has heard anything yet, while the file of another
 * waits for HDF5, which its main thread holds for longer than a failed process has: rank 2's of
 * state, or, where none is shared out, rank 0's. argument: slow_end, + 8 where none is.
 */
static int unequal_rank(int argument)
{
    const int end = argument % 8, bad = end == SLOW_ZERO ? 0 : 1;
    char dir[400], latest[450];
    csp_saver *saver;
    member m = { 0 };
    csp_status status;
    bool held = false, writes;
    int slow;

    member_shares = argument < 8;
    slow = member_shares ? 2 : 0;
    snprintf(dir, sizeof(dir), "%s", scratch_path(unequal_folders[end]));
    join_ranks(&m);
    saver = make_saver_of(&m.s, &m.ranks, true);
    train_to(&m.s, 1);
    held = m.ranks.rank == slow && csp_hdf5_enter();
    assert_ok(save(saver, &m.s, dir));
    if (m.ranks.rank == bad) {
        status = csp_error_set(CSP_ERR_DATA, __FILE__, __LINE__, "%s", "a text is damaged");
        csp_ranks_abort(&m.ranks, status);
    } else {
        assert_int_equal(step_end(saver, &m.ranks, &writes), CSP_ERR_COMM);
    }
    if (m.ranks.rank == slow) {
        usleep(end == SLOW_HANGS ? 4000000 : 600000);
        if (end == SLOW_KILLED) {
            raise(SIGKILL);
        }
        csp_hdf5_leave(&held);
    }
    csp_saver_destroy(saver);
    assert_error_has("a text is damaged");
    leave_ranks(&m);
    /* A launcher that sees a process end may end the others: not before it is there. */
    snprintf(latest, sizeof(latest), "%s/checkpoints/LATEST", dir);
    return end != SLOW_KILLED && end != SLOW_HANGS && access(latest, F_OK) != 0;
}

/* Whoever fails, what was saved is there when the first rank ends; and never half of it. */
static void a_rank_that_fails_lets_the_others_finish_the_checkpoint(void **state)
{
    char dir[600], want[600], checkpoints[700];
    int at[SHARERS];

    (void)state;
    folder("now-shared", want);
    for (int end = SLOW_FINE; end <= SLOW_ALONE; end++) {
        const double begin = csp_machine_seconds();
        const bool fine = end != SLOW_KILLED && end != SLOW_HANGS, shares = end != SLOW_ALONE;

        folder(unequal_folders[end], dir);
        snprintf(checkpoints, sizeof(checkpoints), "%s/checkpoints", dir);
        member_timeout_s = end == SLOW_HANGS ? 2.0 : 60.0;
        member_grace_s = end == SLOW_HANGS ? 0.0 : 0.3;
        assert_true(ranks_run(unequal_rank, end + (shares ? 0 : 8), SHARERS, 60.0, at));
        member_timeout_s = 60.0;
        member_grace_s = 0.0;
        assert_true(csp_machine_seconds() - begin < 30.0);
        for (int r = 0; r < SHARERS; r++) {
            assert_int_equal(at[r], r == 2 && end == SLOW_KILLED ? SIGKILL : 0);
        }
        assert_int_equal(scratch_count(checkpoints, "contrastive-00000001.h5"), fine);
        assert_int_equal(scratch_count(checkpoints, "LATEST"), fine);
        assert_int_equal(scratch_count(checkpoints, ".tmp"), 0);
        if (fine && shares) {
            assert_int_equal(scratch_count(checkpoints, ".state"), SHARERS);
            expect_same(want, dir, name_of(1)); /* which has the names of state of this content */
        }
    }
}

static void ranks_plan_alike(void **state)
{
    csp_save_plan plan = { .beside = true, .bytes = 3, .most = 4 };

    (void)state;
    run_ranks(planning_rank, 0);
    assert_ok(csp_save_plan_agree(NULL, &plan));
    assert_true(plan.beside && plan.bytes == 3 && plan.most == 4 && plan.rank == 0);
}

static void memory_decides_unless_the_setting_does(void **state)
{
    saved s = { 0 };
    csp_save_plan plan;
    int64_t bytes;

    (void)state;
    open_saved(&s, false);
    bytes = csp_checkpoint_image_bytes(s.t.model->params);
    /* Values and two moments in float32, each tensor rounded up to 64 bytes or so. */
    assert_true(bytes >= 3 * 4 * s.t.count && bytes < 3 * (4 * s.t.count + 256 * 40));
    assert_ok(csp_save_plan_make(s.config, s.t.model->params, true, 4 * bytes, &plan));
    assert_true(plan.beside && plan.bytes == bytes && plan.most == bytes);
    assert_ok(csp_save_plan_make(s.config, s.t.model->params, true, 4 * bytes - 4, &plan));
    assert_false(plan.beside);
    assert_ok(csp_save_plan_make(s.config, s.t.model->params, false, 2 * bytes, &plan));
    assert_true(plan.beside);
    assert_ok(csp_save_plan_make(s.config, s.t.model->params, false, INT64_MAX, &plan));
    assert_true(plan.beside);
    s.config->run.async_save = CSP_ASYNC_SAVE_OFF;
    assert_ok(csp_save_plan_make(s.config, s.t.model->params, false, INT64_MAX, &plan));
    assert_false(plan.beside);
    s.config->run.async_save = CSP_ASYNC_SAVE_ON;
    assert_ok(csp_save_plan_make(s.config, s.t.model->params, true, 4 * bytes, &plan));
    assert_true(plan.beside);
    assert_int_equal(csp_save_plan_make(s.config, s.t.model->params, true, 400000, &plan),
                     CSP_ERR_MEMORY);
    assert_error_has("of 0.1 MiB that may be used for it (run.async_save is on)");
    close_saved(&s);
    /* Of adapters only: the base is elsewhere. */
    memset(&s, 0, sizeof(s));
    open_saved(&s, true);
    assert_true(csp_checkpoint_image_bytes(s.t.model->params) < 3 * (4 * s.t.count + 256 * 40));
    close_saved(&s);
    /* Of shared state each rank has its part, rank 0 the values too. */
    for (int rank = 0; rank < 2; rank++) {
        memset(&s, 0, sizeof(s));
        open_saved_of(&s, false, (csp_sharing) { 2, rank, 1, 0 });
        assert_ok(csp_save_plan_make(s.config, s.t.model->params, true, INT64_MAX, &plan));
        bytes = 4 * s.t.count * (rank == 0 ? 2 : 1);
        assert_true(plan.beside && plan.rank == rank);
        assert_true(plan.bytes > bytes / 2 && plan.bytes < bytes + 3 * 256 * 40);
        assert_true(plan.bytes - (rank == 0 ? csp_checkpoint_image_bytes(s.t.model->params) : 0) ==
                    csp_state_copy_bytes(s.t.model->params));
        close_saved(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* The first ones fork: no threads of OpenMP may be there yet. */
        cmocka_unit_test(state_that_ranks_share_out_is_written_beside_training_too),
        cmocka_unit_test(a_rank_that_cannot_write_its_state_ends_all),
        cmocka_unit_test(a_checkpoint_that_ranks_leave_is_finished),
        cmocka_unit_test(a_rank_that_fails_lets_the_others_finish_the_checkpoint),
        cmocka_unit_test(ranks_plan_alike),
        cmocka_unit_test(what_training_does_meanwhile_changes_nothing),
        cmocka_unit_test(a_saver_without_a_copy_gives_the_same),
        cmocka_unit_test(a_failure_is_said_in_the_same_words_by_the_next_call),
        cmocka_unit_test(every_failing_call_is_reported),
        cmocka_unit_test(memory_decides_unless_the_setting_does),
    };

    csp_log_set_level(CSP_LOG_NONE);
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
