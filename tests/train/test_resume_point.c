/*
 * test_resume_point.c - the checkpoint to go on from: which rank checks what, that every byte is
 * read once, that all ranks come to the same one whatever is wrong with the newest, and that ranks
 * which read for longer than the timeout are not taken for hung.
 */
#include <dirent.h>
#include <sys/stat.h>

#include "train/saved_case.h"

#include "core/log.h"
#include "train/keepalive.h"
#include "train/resume_point.h"
#include "train/saver.h"

enum { WROTE = 2, SAVES = 2, MOST = 3 };

static void files_are_shared_out_by_size(void **state)
{
    static const int64_t even[] = { 10, 11, 10, 9, 10, 10 };
    static const int64_t odd[] = { 100, 1, 1, 1, 1, 1 };
    static const int of_two[] = { 0, 0, 0, 1, 1, 1 }, of_three[] = { 0, 0, 1, 1, 2, 2 };
    static const int large[] = { 0, 1, 1, 1, 1, 1 };
    int owner[6];

    (void)state;
    csp_resume_point_share(even, 6, 6, owner);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(owner[i], i);
    }
    csp_resume_point_share(even, 6, 2, owner);
    assert_memory_equal(owner, of_two, sizeof(owner));
    csp_resume_point_share(even, 6, 3, owner);
    assert_memory_equal(owner, of_three, sizeof(owner));
    csp_resume_point_share(odd, 6, 2, owner);
    assert_memory_equal(owner, large, sizeof(owner));
    csp_resume_point_share(even, 2, 5, owner); /* more ranks than files: none gets two */
    assert_true(owner[0] < owner[1] && owner[1] < 5);
    csp_resume_point_share((int64_t[]) { 0, 0 }, 2, 1, owner);
    assert_int_equal(owner[1], 0);
}

/* Steps 1 and 2 of a run of WROTE ranks in the scratch folder. */
static int writing_rank(int argument)
{
    member m = { 0 };
    const csp_save_plan plan = { .beside = false };
    csp_saver *saver;

    (void)argument;
    join_ranks(&m);
    assert_ok(csp_saver_create(m.s.t.model, &m.ranks, &plan, &saver));
    for (int64_t k = 1; k <= SAVES; k++) {
        train_to(&m.s, k);
        assert_ok(csp_saver_save(saver, scratch_path("run"), &m.s.snapshot, m.s.config,
                                 &m.s.progress, &m.s.health));
    }
    csp_saver_destroy(saver);
    return leave_ranks(&m);
}

static void run_all(ranks_body body, int argument, int size)
{
    int at[MOST];

    assert_true(ranks_run(body, argument, size, 600.0, at));
    for (int r = 0; r < size; r++) {
        assert_int_equal(at[r], 0);
    }
}

/* Bytes that this process has read of files so far; -1 where the system does not tell. */
static int64_t bytes_read(void)
{
    FILE *f = fopen("/proc/self/io", "r");
    long long bytes = -1;

    if (f != NULL) {
        if (fscanf(f, "rchar: %lld", &bytes) != 1) {
            bytes = -1;
        }
        fclose(f);
    }
    return bytes;
}

static int64_t file_bytes(const char *name)
{
    struct stat info;
    char path[240];

    snprintf(path, sizeof(path), "run/checkpoints/%.200s", name);
    assert_int_equal(stat(scratch_path(path), &info), 0);
    return (int64_t)info.st_size;
}

static void expect_number(const saved *s, const csp_tensor *t, float want)
{
    float *got = tiny_download(&s->t, t);

    assert_true(csp_tensor_count(t) == 0 || got[0] == want);
    free(got);
}

/* Moments of this rank are those that it wrote. */
static void expect_state(const saved *s, int64_t step)
{
    const csp_params *params = s->t.model->params;

    for (int64_t i = 0; i < params->count; i++) {
        if (params->rows[i].trained && params->rows[i].own_count > 0) {
            expect_number(s, &params->rows[i].m, 2.0f * (float)step);
            expect_number(s, &params->rows[i].v, 3.0f * (float)step);
        }
    }
}

/* Finds the checkpoint of a step and reads its state, as a run does. argument: the step. */
static int resuming_rank(int argument)
{
    csp_health_memory health = { 0 };
    csp_resume_point point;
    member m = { 0 };

    join_ranks(&m);
    assert_ok(csp_resume_point_find(scratch_path("run"), &m.ranks, &point));
    assert_non_null(strstr(point.path, argument == 1 ? "00000001.h5" : "00000002.h5"));
    assert_int_equal(point.state.count, WROTE);
    assert_ok(csp_checkpoint_read_state(&point, &m.ranks, m.s.t.model, &health));
    if (m.ranks.size == WROTE) {
        expect_state(&m.s, argument);
    }
    csp_health_memory_clear(&health);
    csp_resume_point_clear(&point);
    return leave_ranks(&m);
}

/*
 * Of the state files each byte once in all, of the model's file on rank 0; what the other ranks
 * read of that when they open it is less than half of a state file.
 */
static int counting_rank(int argument)
{
    const char *model = "contrastive-00000002.h5";
    csp_health_memory health = { 0 };
    csp_resume_point point;
    member m = { 0 };
    int64_t before, all, want, least = INT64_MAX;

    (void)argument;
    join_ranks(&m);
    before = bytes_read();
    assert_ok(csp_resume_point_find(scratch_path("run"), &m.ranks, &point));
    assert_ok(csp_checkpoint_read_state(&point, &m.ranks, m.s.t.model, &health));
    all = before >= 0 ? bytes_read() - before : 0;
    want = file_bytes(model);
    for (int64_t i = 0; i < point.state.count; i++) {
        const int64_t bytes = file_bytes(point.state.names[i]);

        want += bytes;
        least = bytes < least ? bytes : least;
    }
    assert_ok(csp_ranks_reduce_host(&m.ranks, &all, CSP_I64, 1, CSP_COMM_SUM, "test"));
    if (before >= 0) {
        assert_true(all >= want && all < want + least / 2);
    }
    csp_health_memory_clear(&health);
    csp_resume_point_clear(&point);
    return leave_ranks(&m);
}

static void every_byte_is_read_once(void **state)
{
    (void)state;
    run_all(counting_rank, 0, WROTE);
}

/* The names of step 2's files that begin so, in order of ranks. */
static void name_of_state(int rank, char name[240])
{
    DIR *dir = opendir(scratch_path("run/checkpoints"));
    char begin[64];

    assert_non_null(dir);
    snprintf(begin, sizeof(begin), "contrastive-00000002.rank%dof", rank);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        if (strncmp(e->d_name, begin, strlen(begin)) == 0) {
            snprintf(name, 240, "run/checkpoints/%.200s", e->d_name);
        }
    }
    closedir(dir);
}

/* By as many ranks as wrote, fewer and more: each kind of file, each kind of damage. */
static void all_ranks_pass_over_what_is_damaged(void **state)
{
    enum { MISSING, SHORT, FLIPPED, EMPTY, DAMAGES };

    (void)state;
    for (int kind = -1; kind < WROTE; kind++) { /* the model's, or a rank's state */
        for (int damage = 0; damage < DAMAGES; damage++) {
            const int size = 1 + (kind + 1 + damage) % MOST;
            char path[600], name[240] = "run/checkpoints/contrastive-00000002.h5";
            char *whole;
            size_t bytes;

            if (kind >= 0) {
                name_of_state(kind, name);
            }
            snprintf(path, sizeof(path), "%s", scratch_path(name));
            whole = scratch_read(path, &bytes);
            run_all(resuming_rank, 2, size);
            if (damage == MISSING) {
                assert_int_equal(unlink(path), 0);
            } else if (damage == FLIPPED) {
                whole[bytes / 2] ^= 1;
                scratch_write(path, whole, bytes);
                whole[bytes / 2] ^= 1;
            } else {
                scratch_write(path, whole, damage == SHORT ? bytes - 1000 : 0);
            }
            run_all(resuming_rank, 1, size);
            scratch_write(path, whole, bytes);
            free(whole);
        }
    }
}

/* Reads for longer than the timeout, where it says so; else it is what the others end for. */
static int slow_rank(int argument)
{
    const csp_comm_options options = { .timeout_s = 2.0 };
    csp_keepalive alive;
    csp_launch launch;
    csp_ranks ranks = { 0 };
    csp_status status;

    assert_ok(csp_launch_find(&launch));
    assert_ok(csp_comm_create(&launch, &options, &ranks.comm));
    ranks.rank = csp_comm_rank(ranks.comm);
    ranks.size = csp_comm_size(ranks.comm);
    csp_keepalive_begin(&alive, &ranks, "long work");
    for (int i = 0; i < 35 && ranks.rank == 1; i++) {
        usleep(100000);
        assert_ok(argument ? csp_keepalive_tick(&alive) : CSP_OK);
    }
    status = csp_keepalive_end(&alive);
    assert_int_equal(status, argument ? CSP_OK : CSP_ERR_COMM);
    if (status != CSP_OK) {
        assert_error_has("rank 1 ");
        assert_error_has("did not come to \"long work\" within 2 s");
        csp_keepalive_leave(&alive, status);
    }
    csp_comm_destroy(ranks.comm);
    return 0;
}

static void who_reads_for_long_says_so(void **state)
{
    (void)state;
    run_all(slow_rank, 1, 2);
    run_all(slow_rank, 0, 2);
}

static int begin(void **state)
{
    if (scratch_make(state) != 0) {
        return -1;
    }
    assert_ok(csp_file_make_dirs(scratch_path("run")));
    run_all(writing_rank, 0, WROTE);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_are_shared_out_by_size),
        cmocka_unit_test(every_byte_is_read_once),
        cmocka_unit_test(all_ranks_pass_over_what_is_damaged),
        cmocka_unit_test(who_reads_for_long_says_so),
    };

    csp_log_set_level(CSP_LOG_NONE); /* warnings are expected here */
    return cmocka_run_group_tests(tests, begin, scratch_remove);
}
